//go:build !race

package model

// fewSeeds run by default.
const fewSeeds = 12
