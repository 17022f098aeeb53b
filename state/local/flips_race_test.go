//go:build race

package local

// fewFlips are made by default. With the race detector each takes fifty times as
// long.
const fewFlips = 10
