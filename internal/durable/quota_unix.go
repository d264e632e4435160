//go:build unix

package durable

import "syscall"

// errQuota is what a disk says that is full for this user alone.
const errQuota = syscall.EDQUOT
