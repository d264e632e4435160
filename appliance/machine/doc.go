// Package machine is the socket between the control plane, which has no privileges, and
// the machine's own process (number 1), which has all: both ends of it, and what each may
// ask of the other. HTTP over a unix socket carries it, so that an update streams and a
// request that its asker gave up ends; who is at the other end is the kernel's word
// (SO_PEERCRED).
package machine
