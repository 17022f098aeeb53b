//go:build !race

package local

// fewFlips are made by default.
const fewFlips = 100
