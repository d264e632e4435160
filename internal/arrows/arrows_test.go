// Package arrows holds the test that keeps imports pointing at nouns that know less.
package arrows

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// rules lists what each package of ours may import of ours. A package not listed
// here fails the test: decide where it belongs first.
var rules = map[string]struct {
	allowed []string
	why     string
}{
	"cmd/":                       {[]string{"*"}, "main wires"},
	"internal/daemon":            {[]string{"*"}, "it wires the control plane's parts; the mains and the lab share it"},
	"internal/plane":             {[]string{"firewall", "internal/config", "internal/durable", "internal/peer", "internal/stig", "quarantine/dataplane", "quarantine/tunnel"}, "the privileged process knows no store, no certificate and no person"},
	"internal/making":            {[]string{"appliance", "appliance/claim", "internal/config", "internal/durable"}, "what two processes say to each other; neither of them is here"},
	"internal/listener":          {nil, "sockets and their bounds, for whatever answers there"},
	"internal/notify":            {nil, "a word to the service manager, from whatever"},
	"internal/testnet":           {[]string{"*"}, "a lab may use everything"},
	"internal/bench":             {[]string{"*"}, "it measures everything"},
	"internal/leak":              {[]string{"*"}, "it attacks everything together"},
	"internal/e2e":               {[]string{"*"}, "it tries everything together"},
	"internal/arrows":            {nil, "a test"},
	"internal/chaos":             {nil, "a test"},
	"internal/testneed":          {nil, "a test's needs know no product code"},
	"internal/console":           {[]string{"appliance", "appliance/machine", "enroll", "enroll/cmp", "enroll/code", "quarantine", "quarantine/tunnel", "firewall", "internal/audit", "internal/agentapi", "internal/manage", "internal/attest", "internal/console/api", "internal/form", "internal/signpost"}, "the API shows and asks; it reaches no kernel and no etcd"},
	"internal/manage":            {[]string{"quarantine", "internal/agentapi"}, "it orders devices about, and decides about none"},
	"internal/resolver":          {[]string{"quarantine"}, "it resolves and answers; what a name opens is quarantine's to say"},
	"internal/portal":            {[]string{"quarantine"}, "it tells a device where it stands, and decides nothing"},
	"internal/store":             {[]string{"enroll", "quarantine", "quarantine/tunnel", "firewall", "internal/audit", "internal/seal"}, "an adapter for what enroll and quarantine declare"},
	"internal/agent":             {[]string{"enroll/client", "enroll/cmp", "enroll/code", "quarantine/tunnel", "internal/agentapi", "internal/posture", "internal/attest", "internal/version", "internal/dump", "internal/durable", "internal/peer"}, "the device side knows nothing of the gateway's inside"},
	"internal/posture":           {[]string{"internal/version"}, "it reads the device, and judges nothing"},
	"internal/attest":            {nil, "bytes of a TPM, made on the device and judged at the gateway"},
	"internal/config":            {[]string{"firewall", "internal/form"}, "names the nouns it reads"},
	"internal/agentapi":          {[]string{"enroll/cmp"}, "shapes both ends share"},
	"internal/console/api":       {[]string{"appliance"}, "shapes clients share"},
	"internal/version":           {nil, "one string"},
	"internal/peer":              {nil, "whose a socket is, of whatever"},
	"internal/durable":           {nil, "files, of whatever"},
	"internal/form":              {nil, "how texts are written, of whatever"},
	"internal/signpost":          {nil, "sentences for people, about whatever"},
	"packaging":                  {nil, "files that a Debian package installs"},
	"internal/alert":             {[]string{"quarantine", "quarantine/source"}, "it looks and tells; what it does to a device goes through the gate"},
	"internal/stream":            {[]string{"internal/audit", "quarantine", "quarantine/source/set", "quarantine/source/webhook"}, "it tells others what the audit log says"},
	"internal/audit":             {[]string{"internal/durable"}, "a log of strings"},
	"internal/seal":              {[]string{"internal/durable"}, "bytes in, bytes out"},
	"internal/servercert":        {[]string{"pki"}, "it shows a certificate, and knows no device"},
	"enroll/cmp":                 {nil, "a pure codec"},
	"enroll/code":                {nil, "a pure code"},
	"enroll/client":              {[]string{"enroll/cmp", "enroll/code"}, "the device's half must not pull in a CA"},
	"enroll":                     {[]string{"enroll/cmp", "enroll/code", "quarantine", "quarantine/tunnel", "pki", "firewall", "internal/signpost"}, "the desk admits; stores and consoles are adapters"},
	"quarantine/dataplane":       {[]string{"quarantine", "firewall", "quarantine/tunnel", "internal/peer"}, "it applies what quarantine decides"},
	"quarantine/source/polltest": {[]string{"quarantine", "quarantine/source", "quarantine/source/poll", "quarantine/source/sourcetest"}, "it stands in for a product"},
	"quarantine/source":          {[]string{"quarantine", "quarantine/source", "quarantine/source/door", "quarantine/source/poll", "quarantine/source/set", "internal/durable"}, "it turns what comes from outside into reports, and decides nothing"},
	"quarantine/policy":          {[]string{"quarantine", "quarantine/policy/sets", "internal/form"}, "it judges facts, and moves nobody"},
	"quarantine/storetest":       {[]string{"quarantine", "quarantine/tunnel", "firewall"}, "a conformance suite"},
	"quarantine/tunnel":          {[]string{"internal/dump", "internal/durable"}, "keys and addresses only"},
	"internal/dump":              {nil, "lists of the kernel, of whatever"},
	"quarantine":                 {[]string{"firewall", "quarantine/tunnel", "internal/form"}, "who may pass; for their data types only"},
	"internal/stig":              {[]string{"appliance", "firewall"}, "it proves what the kernel holds, and knows no device"},
	"firewall":                   {[]string{"internal/form"}, "addresses and marks only"},
	"appliance":                  {[]string{"appliance", "internal/dump", "internal/form", "internal/durable", "internal/peer"}, "the machine, which knows no device"},
	"appliance/disk":             {[]string{"appliance", "appliance/disk/block", "appliance/disk/ext4", "appliance/disk/gpt", "appliance/disk/luks", "appliance/disk/mapper", "appliance/disk/tpm"}, "it puts together what the packages below it do to a disk"},
	"appliance/claim":            {[]string{"appliance", "enroll/code", "internal/form"}, "it takes a machine over, and knows no gateway; codes are written one way"},
	"image":                      {[]string{"appliance", "appliance/update", "image", "image/cpio", "image/deb", "image/fake", "image/fat", "image/gpt", "image/kmod", "image/packages", "image/uki", "internal/durable"}, "a disk, made where nothing runs yet"},
	"internal/machine":           {[]string{"*"}, "it wires the machine's parts, as process number 1"},
	"internal/confine":           {nil, "a process gives up what it does not need"},
	"internal/vm":                {[]string{"internal/testneed"}, "a virtual machine for tests, which knows no product code"},
	"internal/imagetest":         {[]string{"*"}, "it tries the image with everything"},
	"pki":                        {[]string{"internal/form"}, "signs what it is told"},
}

// only lists third parties that one place alone may touch.
var only = map[string][]string{
	"go.etcd.io/":                    {"internal/store"},
	"github.com/smallstep/":          {}, // pki signs with crypto/x509 alone
	"go.step.sm/":                    {},
	"github.com/google/nftables":     {"firewall", "internal/bench"},
	"golang.zx2c4.com/wireguard":     {"quarantine/tunnel", "internal/testnet", "internal/bench"},
	"github.com/pelletier/go-toml":   {"internal/config", "quarantine/policy", "cmd/lazaretctl"}, // they read what people write, and say on which line it is wrong
	"github.com/miekg/dns":           {"internal/resolver"},
	"github.com/vishvananda/netlink": {"internal/dump", "appliance", "quarantine/tunnel", "internal/testnet", "internal/agent", "internal/bench"},
	"github.com/insomniacslk/":       {"appliance/network"},
	"github.com/beevik/ntp":          {"appliance/clock"},
	"github.com/godbus/":             {"internal/agent"},
	"github.com/spf13/cobra":         {"cmd/"},
	"github.com/wneessen/go-mail":    {"internal/alert"},
	"golang.org/x/crypto/acme":       {"internal/servercert"},
	"software.sslmate.com/":          {"cmd/lazaretctl"},
	"cel.dev/":                       {"quarantine/policy"},
	"github.com/google/cel-go":       {}, // its former name
	"github.com/go-jose/":            {"quarantine/source/set"},
	"github.com/google/go-tpm":       {"appliance/disk", "internal/attest"},
	// Macs and Windows tell some facts of posture through their own tools alone;
	// TestNoProgramsOnLinux holds these files off every other system.
	"os/exec": {"internal/testnet", "internal/vm", "internal/testneed", "internal/imagetest/testdata", "cmd/demo", "internal/posture", "internal/agent"}, // the agent: the program of a device's administrator that erases it
}

// TestNoProgramsOnLinux: what runs programs in internal/posture is built for macOS and
// Windows alone.
func TestNoProgramsOnLinux(t *testing.T) {
	files, err := filepath.Glob("../posture/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("found no files of internal/posture", err)
	}
	found := 0
	for _, path := range files {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "_test.go") || !slices.ContainsFunc(f.Imports, func(s *ast.ImportSpec) bool { return s.Path.Value == `"os/exec"` }) {
			continue
		}
		found++
		for _, system := range []string{"linux", "freebsd"} {
			c := build.Default
			c.GOOS = system
			if built, err := c.MatchFile(filepath.Split(path)); err != nil || built {
				t.Errorf("%s runs programs, and is built for %s (%v)", path, system, err)
			}
		}
	}
	if found == 0 {
		t.Error("nothing runs programs: take internal/posture off the list")
	}
}

func TestArrows(t *testing.T) {
	root := "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		check(t, filepath.ToSlash(filepath.Dir(rel)), path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, dir, path string) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	test := strings.HasSuffix(path, "_test.go")
	home, rule, ok := find(dir)
	if !ok {
		t.Errorf("%s: package %s has no rule in internal/arrows: decide what it may import", path, dir)
		return
	}
	for _, spec := range f.Imports {
		name, _ := strconv.Unquote(spec.Path.Value)
		if test {
			continue // tests may look at anything
		}
		if of, ours := strings.CutPrefix(name, "lazaret/"); ours {
			if !slices.Contains(rule.allowed, "*") && !slices.Contains(rule.allowed, of) && of != home {
				t.Errorf("%s imports %s, but %s may not: %s", path, of, dir, rule.why)
			}
			continue
		}
		for prefix, homes := range only {
			if strings.HasPrefix(name, prefix) && !slices.ContainsFunc(homes, func(h string) bool { return strings.HasPrefix(dir+"/", strings.TrimSuffix(h, "/")+"/") }) {
				t.Errorf("%s imports %s, which only %v may", path, name, homes)
			}
		}
	}
}

// find returns the rule of the longest package prefix that covers dir.
func find(dir string) (string, struct {
	allowed []string
	why     string
}, bool) {
	best := ""
	for p := range rules {
		if (dir == strings.TrimSuffix(p, "/") || strings.HasPrefix(dir, strings.TrimSuffix(p, "/")+"/")) && len(p) > len(best) {
			best = p
		}
	}
	r, ok := rules[best]
	return strings.TrimSuffix(best, "/"), r, ok && best != ""
}
