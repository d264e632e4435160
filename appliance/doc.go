// Package appliance holds the nouns of the machine under the gateway: where things lie on
// its disk, how it is connected, what it is told when it is first set up, and how it does.
// What acts on them lies in the packages below it; this one touches nothing.
package appliance
