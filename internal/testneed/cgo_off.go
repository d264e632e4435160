//go:build !cgo

package testneed

const cgo = false
