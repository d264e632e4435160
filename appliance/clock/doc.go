// Package clock keeps the machine's time by NTP (RFC 5905), within bounds: several servers
// have to agree, time never runs behind what is known to have passed, and a claimed machine
// takes no great step without a person.
package clock
