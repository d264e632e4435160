// Package network makes the machine's links, addresses, routes and name servers what an
// appliance.Network says, and keeps them so: cards that come later, leases that change,
// routers that say something new. It touches no link that is not named there; the tunnel
// and its routes are the data plane's.
package network
