package testneed

import (
	"os"
	"slices"
	"testing"
)

// GuestTest is a test that needs more of the kernel than a machine for tests must have.
type GuestTest struct {
	Package string   // below the module's root
	Name    string   // of the test
	Modules []string // of the kernel, which it needs loaded
}

// GuestTests are all of them. internal/imagetest.TestGuestKernel, of make image-test, runs each
// in the kernel of the built image, one after the other in the namespaces that it starts with.
var GuestTests = []GuestTest{
	{Package: "appliance/network", Name: "TestBuilt", Modules: []string{"bonding", "8021q", "veth"}},
}

// GuestVariable is set to 1 where GuestTests run in the image's kernel.
const GuestVariable = "LAZARET_TEST_GUEST"

// Guest says whether this is the image's kernel, run for one of GuestTests alone.
func Guest() bool { return os.Getenv(GuestVariable) == "1" }

// Kernel skips t for what this machine's kernel has not, also in CI, since t is one of
// GuestTests. In the image's kernel, and for any other test, it fails t.
func Kernel(t testing.TB, lack string) {
	t.Helper()
	if Guest() {
		t.Fatal("the image's kernel " + lack)
	}
	if !slices.ContainsFunc(GuestTests, func(g GuestTest) bool { return g.Name == t.Name() }) {
		t.Fatal("this kernel " + lack + ", and no other runs this test: put it into testneed.GuestTests")
	}
	t.Skip("this kernel " + lack + ": make image-test runs this test in the image's kernel")
}
