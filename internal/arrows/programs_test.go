package arrows

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/testneed"
)

// heavy are what the appliance's privileged processes have none of: the store and what it speaks,
// the language of policies, certificate authorities, templates of text and metrics. Names are of
// packages or of all below them.
var heavy = []string{
	"go.etcd.io", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/gogo/protobuf", "github.com/golang/protobuf", "cel.dev", "github.com/google/cel-go",
	"github.com/smallstep", "go.step.sm", "github.com/prometheus", "github.com/Masterminds/sprig", "github.com/spf13/cobra",
	"lazaret/internal/daemon", "lazaret/internal/store", "lazaret/internal/console", "lazaret/enroll/est", "lazaret/pki", "lazaret/quarantine/policy",
}

// TestPrivilegedProgramIsSmall: the program of process number 1, of the data plane and of the
// claim's door has nothing heavy in it, on no architecture and in no build. The other program,
// which has most of it, shows that the names are right.
func TestPrivilegedProgramIsSmall(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		for _, tags := range []string{"", "lazarettest"} {
			small := made(t, arch, tags, "lazaret/cmd/appliance")
			for _, p := range small {
				if slices.ContainsFunc(heavy, func(h string) bool { return p == h || strings.HasPrefix(p, h+"/") }) {
					t.Errorf("%s, %q: the small program is made of %s", arch, tags, p)
				}
			}
			for _, p := range []string{"lazaret/internal/machine", "lazaret/internal/plane", "lazaret/appliance/claim"} {
				if !slices.Contains(small, p) {
					t.Errorf("%s, %q: the small program is not made of %s", arch, tags, p)
				}
			}
		}
	}
	large := made(t, "amd64", "", "lazaret/cmd/lazaretd")
	for _, h := range []string{"go.etcd.io", "cel.dev", "google.golang.org/protobuf", "lazaret/internal/daemon", "lazaret/pki"} {
		if !slices.ContainsFunc(large, func(p string) bool { return p == h || strings.HasPrefix(p, h+"/") }) {
			t.Errorf("lazaretd is not made of %s: is that its name still?", h)
		}
	}
	if slices.Contains(large, "lazaret/internal/machine") {
		t.Error("lazaretd holds process number 1, which the other program is")
	}
}

// made are all packages that a program is made of.
func made(t *testing.T, arch, tags, program string) []string {
	t.Helper()
	c := exec.Command(testneed.Program(t, "go"), "list", "-deps", "-tags", tags, program)
	c.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "CGO_ENABLED=0")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("listing what %s is made of: %v", program, err)
	}
	return strings.Fields(string(out))
}
