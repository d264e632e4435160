// Package plane is the data plane's process: it owns the firewall table and the tunnel's
// link, answers the control plane on one socket and administrators of the host's own rules on
// another. It asks nobody's store and knows no certificate. What asks it (TryHost, HeldPools,
// Stig) is here too.
package plane
