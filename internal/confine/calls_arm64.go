package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

var commonHere, deadlyHere []uint32 // there are no older forms
