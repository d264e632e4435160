package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/internal/daemon"
	"lazaret/internal/making"
)

// unclaimed starts a machine on loopback that makes real gateways in dir.
func unclaimed(t *testing.T, dir string) (address string, code claim.Code, kept func() int) {
	t.Helper()
	return claimable(t, dir, false)
}

// claimable starts a machine on loopback that makes a real gateway in dir, or an
// administrator of the one that is there.
func claimable(t *testing.T, dir string, administrator bool, change ...func(*claim.KeeperConfig)) (address string, code claim.Code, kept func() int) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	at := making.Places{Config: filepath.Join(dir, "config", "lazaretd.toml"), State: filepath.Join(dir, "lazaret"), Plane: filepath.Join(dir, "dataplane")}
	code = claim.DrawCode()
	var made making.Made
	times := 0
	cfg := claim.KeeperConfig{
		Code: code, Log: log, Administrator: administrator,
		Make: func(ctx context.Context, r claim.Request, step func(string)) (claim.Answer, error) {
			q := making.Request{Claim: r, Network: appliance.Automatic(), Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.20/24")}}
			carryOut := daemon.InitFromSetup
			if administrator {
				carryOut = daemon.MakeAdministrator
			}
			var err error
			made, err = carryOut(ctx, q, at, log, step)
			return made.Answer, err
		},
		Keep: func(context.Context) error {
			times++
			if administrator {
				return nil
			}
			return making.Keep(at, made.Config)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	k, err := claim.NewKeeper(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	ready := make(chan struct{})
	d, err := claim.NewDoor(claim.DoorConfig{Listeners: []net.Listener{l}, Keeper: theirs, Ready: func() { close(ready) }, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- k.Run(ctx, ours) }()
	go func() { ended <- d.Run(ctx) }()
	<-ready
	stop := func() {
		cancel()
		<-ended
		<-ended
	}
	done := false
	t.Cleanup(func() {
		if !done {
			stop()
		}
	})
	return l.Addr().String(), code, func() int {
		stop()
		done = true
		return times
	}
}

// ctl runs lazaretctl with a directory and returns its standard output and error.
func ctl(t *testing.T, dir, stdin string, args ...string) (out, said string, err error) {
	t.Helper()
	var o, e strings.Builder
	c := root()
	c.SetIn(strings.NewReader(stdin))
	c.SetOut(&o)
	c.SetErr(&e)
	c.SetArgs(append([]string{"--dir", dir}, args...))
	err = c.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

// TestClaim: one command makes the gateway and leaves a credential that only its owner reads.
func TestClaim(t *testing.T) {
	address, code, kept := unclaimed(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "credential")
	setup := filepath.Join(t.TempDir(), "setup.yaml")
	if err := os.WriteFile(setup, []byte("organization: Example\nenroll_names: [file.example.com]\nmanagement: [192.0.2.10 tcp/443]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"claim", address, "--code-file=-", "-f", setup, "--enroll-name=gw.example.com", "--json"}

	// Faults first: nothing is sent, nothing is left.
	for name, x := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"half a code": {code.String()[:20], args, "not a claim code"},
		"wrong code":  {claim.DrawCode().String(), args, "somebody is between you"},
		"bad flag":    {code.String(), append(args, "--admin-network=x"), "--admin-network"},
		"no set-up":   {code.String(), []string{"claim", address, "--code-file=-"}, "enroll_names"},
		"no machine":  {code.String(), []string{"claim", "127.0.0.1:1", "--code-file=-", "-f", setup}, "connecting to 127.0.0.1:1"},
	} {
		if _, said, err := ctl(t, dir, x.stdin, x.args...); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error()+said, code.String()) {
			t.Errorf("%s: %v", name, err)
		}
		if list, _ := os.ReadDir(dir); len(list) != 0 {
			t.Errorf("%s left %v", name, list)
		}
	}

	out, said, err := ctl(t, dir, strings.ToLower(code.String())+"\n", args...)
	if err != nil {
		t.Fatal(err)
	}
	var v claimed
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.Enroll != "https://gw.example.com" || v.API != "https://127.0.0.1:8443" {
		t.Errorf("printed %s, %v", out, err)
	}
	if !strings.Contains(said, v.Fingerprint) || !strings.Contains(said, "authorities") || strings.Contains(out+said, "lzt_") {
		t.Errorf("said %s", said)
	}
	for _, name := range append(credentialFiles, "management-token") {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, pendingFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the claim under way is still kept")
	}
	s := &session{dir: dir}
	if c, err := s.open(); err != nil || c.base != v.API {
		t.Errorf("the credential does not open: %v", err)
	}
	if _, _, err := ctl(t, dir, code.String(), args...); err == nil || !strings.Contains(err.Error(), "holds a credential already") {
		t.Errorf("over a credential: %v", err)
	}
	if n := kept(); n != 1 {
		t.Errorf("kept %d times", n)
	}
}

// TestClaimSeeded: the code alone claims a machine that a seed has set up; of what is given
// besides, each field replaces the seed's, and the others stay.
func TestClaimSeeded(t *testing.T) {
	seeded := appliance.Setup{
		Name: "seeded", Organization: "Example", EnrollNames: []string{"seed.example.com"}, Management: []string{"192.0.2.10 tcp/443"},
		AdminNetworks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, Masquerade: true, Updates: appliance.Updates{Automatic: true, Channel: "https://updates.example.com/stable"},
		Network: &appliance.Network{Version: 2, Ethernets: map[string]appliance.Ethernet{"eth0": {Link: appliance.Link{Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.20/24")}}}}},
	}
	file := filepath.Join(t.TempDir(), "setup.yaml")
	if err := os.WriteFile(file, []byte("name: filed\nmanagement: [192.0.2.11 tcp/443]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := seeded
	changed.Name, changed.Management, changed.Organization, changed.Masquerade = "filed", []string{"192.0.2.11 tcp/443"}, "Flagged", false
	changed.Updates.Channel = "https://updates.example.com/lazaret"
	for name, x := range map[string]struct {
		args []string
		want appliance.Setup
	}{
		"the code alone": {nil, seeded},
		"overridden":     {[]string{"-f", file, "--organization=Flagged", "--masquerade=false", "--update-channel=https://updates.example.com/lazaret"}, changed},
	} {
		t.Run(name, func(t *testing.T) {
			var got appliance.Setup
			address, code, kept := claimable(t, t.TempDir(), false, func(c *claim.KeeperConfig) {
				c.About = func() claim.About { return claim.About{Setup: seeded} }
				makes := c.Make
				c.Make = func(ctx context.Context, r claim.Request, step func(string)) (claim.Answer, error) {
					got = r.Setup
					return makes(ctx, r, step)
				}
			})
			if _, _, err := ctl(t, t.TempDir(), code.String(), append([]string{"claim", address, "--code-file=-"}, x.args...)...); err != nil {
				t.Fatal(err)
			}
			if n := kept(); n != 1 || !reflect.DeepEqual(got, x.want) {
				t.Errorf("kept %d times, made of\n%+v, want\n%+v", n, got, x.want)
			}
		})
	}
}

// TestClaimTakenUp: what an earlier run could not finish, the next one does, with the same key
// and the same request.
func TestClaimTakenUp(t *testing.T) {
	address, code, kept := unclaimed(t, t.TempDir())
	dir := t.TempDir()
	setup := appliance.Setup{EnrollNames: []string{"gw.example.com"}, Management: []string{"192.0.2.10 tcp/443"}}
	text, key, err := newClaim(setup, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &session{dir: dir}
	if err := s.savePending(address, text, key); err != nil {
		t.Fatal(err)
	}
	k, err := claim.Dial(t.Context(), address, code, text, nil) // the run that saw no answer
	if err != nil {
		t.Fatal(err)
	}
	first, err := k.Claim(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	// Somebody else, who saw the code: too late.
	if _, _, err := ctl(t, t.TempDir(), code.String(), "claim", address, "--code-file=-", "--enroll-name=evil.example.com", "--management=192.0.2.66 tcp/443"); err == nil || !strings.Contains(err.Error(), "claimed already") {
		t.Errorf("a second claimant: %v", err)
	}
	if _, _, err := ctl(t, dir, code.String(), "claim", address, "--code-file=-", "--enroll-name=other.example.com", "--management=192.0.2.10 tcp/443"); err == nil || !strings.Contains(err.Error(), "another set-up") {
		t.Errorf("another set-up: %v", err)
	}
	out, said, err := ctl(t, dir, code.String(), "claim", address, "--code-file=-", "--json")
	if err != nil || !strings.Contains(said, "begun before") || !strings.Contains(out, first.RootSHA256) {
		t.Errorf("%v, said %s, printed %s", err, said, out)
	}
	if n := kept(); n != 1 {
		t.Errorf("kept %d times", n)
	}
}

// TestConnect: the file of the page becomes the directory every other command reads.
func TestConnect(t *testing.T) {
	address, code, kept := unclaimed(t, t.TempDir())
	dir := t.TempDir()
	if _, _, err := ctl(t, dir, code.String(), "claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443"); err != nil {
		t.Fatal(err)
	}
	kept()
	var c claim.Credential
	{ // what the page would have given
		root, _ := os.ReadFile(filepath.Join(dir, "root.pem"))
		chain, _ := os.ReadFile(filepath.Join(dir, "admin.pem"))
		key, _ := os.ReadFile(filepath.Join(dir, "admin-key.pem"))
		var err error
		if c, err = claim.ParseCredential([]byte("# server: https://127.0.0.1:8443\n" + string(root) + string(chain) + string(key))); err != nil {
			t.Fatal(err)
		}
	}
	text, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	file, into := filepath.Join(t.TempDir(), claim.CredentialName), filepath.Join(t.TempDir(), "into")
	for name, bad := range map[string]string{
		"empty": "", "no server": strings.Replace(string(text), "https://", "http://", 1), "cut": string(text[:len(text)-200]),
		"other key": strings.Replace(string(text), "BEGIN CERTIFICATE", "BEGIN RUBBISH", 1),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ctl(t, into, "", "connect", file); err == nil {
			t.Errorf("%s: imported", name)
		}
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ctl(t, into, "", "connect", file); err != nil {
		t.Fatal(err)
	}
	for _, name := range credentialFiles {
		a, _ := os.ReadFile(filepath.Join(dir, name))
		b, err := os.ReadFile(filepath.Join(into, name))
		if err != nil || string(a) != string(b) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	if _, _, err := ctl(t, into, "", "connect", file); err == nil {
		t.Error("imported over a credential")
	}
}

// TestClaimAdministrator: of a gateway that is there nothing is asked but the code, and what
// is said about it is refused. The new credential is one of the same gateway.
func TestClaimAdministrator(t *testing.T) {
	gateway := t.TempDir()
	address, code, kept := unclaimed(t, gateway)
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	if _, _, err := ctl(t, first, code.String(), "claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443"); err != nil {
		t.Fatal(err)
	}
	kept()
	address, code, kept = claimable(t, gateway, true)
	_, _, err := ctl(t, second, code.String(), "claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--masquerade")
	if err == nil || !strings.Contains(err.Error(), "leave out --enroll-name, --masquerade") {
		t.Errorf("with a set-up: %v", err)
	}
	out, said, err := ctl(t, second, code.String(), "claim", address, "--code-file=-", "--administrator=ada")
	if err != nil || !strings.Contains(out, "You are an administrator of gateway") || strings.Contains(out+said, code.String()) {
		t.Fatalf("%v\n%s%s", err, out, said)
	}
	if n := kept(); n != 1 {
		t.Errorf("kept %d times", n)
	}
	for _, name := range []string{"server", "root.pem"} {
		a, err := os.ReadFile(filepath.Join(first, name))
		b, err2 := os.ReadFile(filepath.Join(second, name))
		if err = errors.Join(err, err2); err != nil || string(a) != string(b) {
			t.Errorf("%s differs: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(second, "management-token")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a token: %v", err)
	}
}
