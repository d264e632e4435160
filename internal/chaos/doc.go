// Package chaos holds tests that kill and harm a gateway while packets that nothing
// allows are sent at it without pause: SIGKILL of either process at every step and at
// random, processes that are stopped, stores that stall, kernels that refuse. The
// gateway's two processes are the product's own parts over a real firewall table, a
// journal and a store on disk.
//
// The tunnel's interface is held by the judge, not by the data plane, so that forged
// packets keep entering the forward hook while the data plane is dead, as they do behind
// a WireGuard link of the kernel's. The judge holds every end, so that nothing is sent or
// arrives without it, and knows nothing of the product's own books: it reads the kernel's
// table with nft(8).
package chaos
