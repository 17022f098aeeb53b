//go:build race

package model

// fewSeeds run by default. With the race detector each takes twenty times as long.
const fewSeeds = 3
