package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

var update = flag.Bool("update", false, "write what the programs print into the scripts")

// programs are the three programs, built once.
var programs struct {
	once sync.Once
	dir  string
	err  error
}

func theirDir(t testing.TB) string {
	t.Helper()
	programs.once.Do(func() {
		if programs.dir, programs.err = os.MkdirTemp("", "lazaret-programs-"); programs.err != nil {
			return
		}
		build := exec.Command("go", "build", "-p", "1", "-o", programs.dir+"/", "lazaret/cmd/lazaret", "lazaret/cmd/lazaretctl", "lazaret/cmd/lazaretd")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			programs.err = fmt.Errorf("building the programs: %w\n%s", err, out)
		}
	})
	if programs.err != nil {
		t.Fatal(programs.err)
	}
	return programs.dir
}

// TestCommands runs the programs where there is no gateway.
func TestCommands(t *testing.T) {
	t.Parallel()
	dir := theirDir(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", dir)
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
	})
}

// TestCommandsInLab runs the programs as people would: lazaretd made by init and run as
// its own program, lazaretctl on the management network, and lazaret on a device.
func TestCommandsInLab(t *testing.T) {
	t.Parallel()
	lab := theLab(t)
	dir := theirDir(t)
	g := newGateway(t, options{programs: dir})
	dev, err := lab.AddHost(soon(t), "laptop")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.Link(soon(t), dev, "outer", "outer", netip.MustParsePrefix("198.51.100.250/24")); err != nil {
		t.Fatal(err)
	}
	s := &scripted{t: t, g: g, programs: dir, hosts: map[string]*testnet.Host{"dev": dev, "mgmt": lab.Management, "gw": g.host}}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/lab", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for name, value := range map[string]string{
				"ADMIN": g.admin, "CONFIG": g.config, "SERVER": g.url(), "MANAGEMENT": lab.Plan.Management.V4.String(),
			} {
				e.Setenv(name, value)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"on": s.on, "start": s.start, "await": s.await, "code": s.code},
	})
}

// scripted is the lab as a script sees it.
type scripted struct {
	t        *testing.T
	g        *gateway
	programs string
	hosts    map[string]*testnet.Host
}

// run runs a program on a host: HOST [<FILE] [>FILE] PROGRAM ARGUMENT...
func (s *scripted) run(ts *testscript.TestScript, args []string, wait bool) (string, error) {
	host := s.hosts[args[0]]
	spec := testnet.Spec{Dir: ts.Getenv("WORK"), Env: []string{"LAZARET_DIR=" + s.g.admin,
		"LAZARET_AGENT_DIR=" + filepath.Join(ts.Getenv("WORK"), "agent"), "LAZARET_AGENT_SOCKET=/run/agent.sock"}}
	args = args[1:]
	if file, ok := strings.CutPrefix(args[0], "<"); ok {
		spec.Stdin, args = strings.NewReader(ts.ReadFile(file)), args[1:]
	}
	keep := ""
	if file, ok := strings.CutPrefix(args[0], ">"); ok {
		keep, args = ts.MkAbs(file), args[1:]
	}
	spec.Path, spec.Args = filepath.Join(s.programs, args[0]), args[1:]
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	p, err := host.Start(ctx, spec)
	ts.Check(err)
	if !wait {
		_, err := p.AwaitOutput(ctx, "tunnel is up")
		ts.Check(err)
		return "", nil
	}
	err = p.Wait(ctx)
	if keep != "" {
		ts.Check(os.WriteFile(keep, []byte(p.Output()), 0o600))
	}
	return p.Output(), err
}

// on runs a program to its end; what it prints, with what differs from run to run
// replaced, is then the script's stdout.
func (s *scripted) on(ts *testscript.TestScript, neg bool, args []string) {
	out, err := s.run(ts, args, true)
	if (err != nil) != neg {
		ts.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	fmt.Fprint(ts.Stdout(), s.masked(out))
}

// start runs a program that stays.
func (s *scripted) start(ts *testscript.TestScript, _ bool, args []string) {
	_, err := s.run(ts, args, false)
	ts.Check(err)
}

// await runs a program again and again until it prints what the pattern matches.
func (s *scripted) await(ts *testscript.TestScript, _ bool, args []string) {
	pattern := regexp.MustCompile(args[0])
	for end := time.Now().Add(patience); ; {
		out, err := s.run(ts, args[1:], true)
		if err == nil && pattern.MatchString(out) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%s: %v\n%s", strings.Join(args[1:], " "), err, out)
		}
	}
}

// code creates a one-time password with the arguments, and writes its code to the file
// that comes first.
func (s *scripted) code(ts *testscript.TestScript, _ bool, args []string) {
	out, err := s.run(ts, append([]string{"mgmt", "lazaretctl", "otp", "create", "--json"}, args[1:]...), true)
	ts.Check(err)
	var o api.OTPCreated
	ts.Check(json.Unmarshal([]byte(out), &o))
	s.g.remember(o)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(o.Code+"\n"), 0o600))
}

// masks replace what differs from run to run.
var masks = []struct {
	pattern *regexp.Regexp
	by      string
}{
	{regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{5}(-[0-9A-HJKMNP-TV-Z]{5}){4}`), "CODE"},
	{regexp.MustCompile(`(?m)^[0-9A-HJKMNP-TV-Z]{8} `), "REFERENCE "},
	{regexp.MustCompile(`\b(cancelled) [0-9A-HJKMNP-TV-Z]{8}\b`), "$1 REFERENCE"},
	{regexp.MustCompile(`\bd-[0-9a-f]{20}\b`), "DEVICE"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "SHA256"},
	{regexp.MustCompile(`\b[0-9a-f]{30,40}\b`), "SERIAL"},
	{regexp.MustCompile(`[0-9A-Za-z+/]{43}=`), "KEY"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\d( \d\d:\d\d(:\d\d)?)?( UTC)?`), "TIME"},
	{regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`), "TIME"},
	{regexp.MustCompile(`\b(in )?\d+(s|m|h\d\dm|d)( ago)?\b`), "SPAN"},
	{regexp.MustCompile(`(received|sent) \d+ bytes`), "$1 N bytes"},
	{regexp.MustCompile(`\b\d+ (entries|segments?)`), "N $1"},
	{regexp.MustCompile(`  +`), "  "}, // columns are as wide as what stands in them
	{regexp.MustCompile(`(?m) +$`), ""},
}

func (s *scripted) masked(text string) string {
	for of, by := range map[string]string{
		s.g.outer.String(): "198.51.100.1", s.g.mgmt.String(): "192.0.2.1", s.g.host.Dir(): "HOST",
		strings.TrimSuffix(s.g.quarantine.Addr().String(), "0.0"): "10.66.", strings.TrimSuffix(s.g.full.Addr().String(), "0.0"): "10.67.",
	} {
		text = strings.ReplaceAll(text, of, by)
	}
	for _, m := range masks {
		text = m.pattern.ReplaceAllString(text, m.by)
	}
	return text
}
