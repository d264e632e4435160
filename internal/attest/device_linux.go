package attest

import (
	"fmt"
	"io/fs"
	"os"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// resourceManager is the kernel's, which lets several programs use the TPM at once.
const resourceManager = "/dev/tpmrm0"

// OpenDevice finds the TPM at a path: a device, or the unix socket of a software TPM;
// empty: this device's own. ErrNoTPM.
func OpenDevice(path string) (*Device, error) {
	if path == "" {
		path = resourceManager
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	open := linuxtpm.Open
	if info.Mode()&fs.ModeSocket != 0 {
		open = linuxudstpm.Open
	}
	return newDevice(func() (transport.TPMCloser, error) { return open(path) }), nil
}
