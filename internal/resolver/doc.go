// Package resolver keeps what the names in pools' reaches resolve to, and answers the
// devices' own questions with it.
//
// Resolver asks upstream servers in the background and keeps every address for the time
// its answer gave it, and for a while longer: see Pin. What a pool opens of it is not
// decided here but by quarantine.Pool.Refuses.
//
// Service is the resolver that devices in quarantine are told to use. It answers names of
// their pool from what is pinned, and asks nobody on their behalf: what a device says in a
// query never leaves the gateway, unless the device is routed and its pool forwards.
package resolver
