//go:build !linux

package attest

import (
	"fmt"
	"runtime"
)

// OpenDevice finds no TPM: attestation is made on Linux only.
func OpenDevice(string) (*Device, error) {
	return nil, fmt.Errorf("%w: attestation is not supported on %s", ErrNoTPM, runtime.GOOS)
}
