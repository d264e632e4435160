// Package testnet is a lab of hosts in network namespaces, for tests and for the
// demo: real links, real packets, real tunnels, and nothing installed but Go. It
// runs as an ordinary user in a user namespace of its own, or as root.
//
// A program that uses it calls [Main] first thing, because the lab consists of
// further processes of the same program: one first process that owns all the
// namespaces and takes every other one down with it, one agent for each host, and
// whatever is run inside the hosts. Each host is a whole process tree in a network
// namespace of its own, so that a userspace WireGuard device finds every one of
// its threads in the right place.
//
// The agent of a host also makes the traffic and looks at it: [Host.Probe] asks
// whether one packet gets there and back, [Host.Stream] keeps a flow of stamped
// messages going, [Host.Capture] records what an interface carries. All stamps are
// of one clock ([Stamp]), which namespaces share, so that what was sent can be
// judged against the moment of a change.
package testnet
