// Package machine is process number 1 of an appliance: it wires the parts of the machine
// (packages below appliance) in the order in which they may come, and decides nothing that
// they decide. What runs beside it is this same program with other commands: the data
// plane, the control plane, and on an unclaimed machine the page and protocol of the claim.
//
// The order, and what holds when a step fails:
//
//  1. file systems, watchdog, kernel settings: without them it restarts, and the boot loader
//     counts the attempt;
//  2. the boot table, which drops everything but what a host needs to get an address: without
//     it no link comes up;
//  3. the data partition: without it no gateway runs; the screen says why and offers the way out;
//  4. network and clock;
//  5. on an unclaimed machine the claim; on a claimed one the data plane, then the control
//     plane. The boot table goes when the data plane's own stands.
package machine
