package attest

import (
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// resourceManager is the kernel's, which lets several programs use the TPM at once.
const resourceManager = "/dev/tpmrm0"

// OpenDevice finds this device's TPM; ErrNoTPM.
func OpenDevice() (*Device, error) {
	if _, err := os.Stat(resourceManager); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	}
	return newDevice(func() (transport.TPMCloser, error) { return linuxtpm.Open(resourceManager) }), nil
}
