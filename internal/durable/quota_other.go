//go:build !unix

package durable

import "syscall"

// errQuota has no name of its own here.
const errQuota = syscall.ENOSPC
