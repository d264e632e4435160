// Package seed reads what a machine is told before its first boot from a disk labelled
// CIDATA (the NoCloud data source): meta-data, user-data with the keys of an
// appliance.Setup, and network-config. It runs nothing that it finds there.
package seed
