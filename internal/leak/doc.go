// Package leak is the suite that looks for a packet which policy forbids and the gateway
// lets pass (requirements M9, X1, X2).
//
// It runs against the real thing: the data plane's own process (firewall table and
// WireGuard) in a lab of namespaces, a [quarantine.Gate] that decides, and devices with
// WireGuard tunnels that send whatever they like. A table of probes ([Probes]) is crossed
// with the stages a device can be in ([Stages]). Every probe's packets bear a number that
// captures at all ends look for, and the judgement is over everything captured in the
// whole run: one packet seen beyond the gateway, taken in by the gateway itself, or
// answered, fails the case.
//
// A silence proves nothing by itself. So the same packets go through a control gateway,
// which has the same kind of tunnel and no firewall, and must be seen there by the same
// judgement ("the control leaked"); and a capture must show that they left the device
// through its tunnel, else the case counts as never sent.
package leak
