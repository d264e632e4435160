// Package firewall is the nftables table that enforces placement: Ruleset is the
// plain, printable description; the writer makes the kernel match it. It knows
// addresses, marks, ports and deadlines, and nothing of devices or certificates.
//
// # The table
//
// Every packet that enters or leaves the tunnel is placed before anything else is
// asked of it, unless the same was asked for its flow and nothing was taken away since (see
// below): by its own address on the tunnel's side: source on the way up,
// destination on the way down. The chains forward, down and visit look it up in routed4 or
// routed6, timed sets of the addresses that are routed in their own pool, and go to that
// pool's chain, which the prefix tells. An address that is routed in another pool than its
// own stands in fixed4 or fixed6, timed maps to the mark that names that pool: those of
// devices that keep one address. An address of the quarantine pool goes to the chains home_
// instead, which look first in fixed4 or fixed6, then in quarantined4 or quarantined6, and go
// to quarantine. What is in none is dropped. The routed way also needs the elements of
// @fresh, the quarantine way those of @alive: timed sets of both families or none.
//
// So a lease that ends, a refresh that does not come and an element that is deleted
// all cut running flows at the next packet, and no connection tracking entry keeps
// anything open. Elements hold no verdicts: one that did would have the kernel look
// through all of them at every change. Most addresses stand in plain sets, and every rule
// asks first what is cheap: a packet pays for each step.
//
// # What is remembered
//
// The look-up among very many devices is most of what a packet pays. So a flow that a device
// opened, and has had an answer to, may have its verdict remembered: the number of the
// present generation, in the mark of its connection tracking entry. While @verified holds
// that number, its packets need no look-up. The number is replaced in the very transaction
// that takes or changes a placement, @verified never outlives the first lease that ends, nor
// freshness, and a number never comes twice; so a remembered verdict says what a look-up
// would. See remembered for the rules and memory for the number. Empty sets, after doubt or
// in a hurry, only mean that everything is looked up.
//
// # Answers, fragments, the gateway itself
//
// What comes back to a device must be an answer: established, in the direction of
// reply, from an address that its pool reaches, in a flow that was opened to an
// address, protocol and port that its pool reaches. ICMP errors count by the flow they
// quote. Nothing is opened towards a device, and nothing goes from device to device.
//
// Fragments are put together before the first of these chains (connection tracking,
// which every ruleset here uses, has the kernel do so), and ports are matched behind
// IPv6 extension headers. A device's packets with an IPv6 routing header or IPv4 options are
// dropped on arrival.
//
// The gateway's own input and output are denied by default too. Echo requests from
// outside are answered, 20 a second; neighbour discovery and multicast listener
// messages pass where they must.
package firewall
