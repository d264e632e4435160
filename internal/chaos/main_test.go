package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// roles are what this test binary is when a test runs it again. Each is told what to do
// by lines of JSON, and answers each of them by one.
var roles = map[string]func(dir string) error{
	"plane":   runPlane,
	"control": runControl,
}

const (
	insideVariable = "LAZARET_CHAOS_INSIDE"
	roleVariable   = "LAZARET_CHAOS_ROLE"
	dirVariable    = "LAZARET_CHAOS_DIR"
	dieVariable    = "LAZARET_CHAOS_DIE" // the step to die at, from the start
)

func TestMain(m *testing.M) {
	if play := roles[os.Getenv(roleVariable)]; play != nil {
		if err := play(os.Getenv(dirVariable)); err != nil {
			fmt.Fprintln(os.Stderr, os.Getenv(roleVariable)+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inside runs the calling test again, wholly in user, network and mount namespaces of its
// own, and returns true there.
func inside(t *testing.T, limit time.Duration, env ...string) bool {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		t.Logf("drawn with %s=%d", seedVariable, seed)
		return true
	}
	testneed.Namespaces(t)
	t.Parallel()
	c := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$", "-test.timeout="+limit.String())
	c.Env = append(append(os.Environ(), insideVariable+"="+t.Name(), fmt.Sprintf("%s=%d", seedVariable, seed)), env...)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out strings.Builder
	c.Stdout, c.Stderr = &out, &out
	if os.Getenv("LONG") == "1" { // somebody waits for hours
		c.Stdout = io.MultiWriter(&out, os.Stdout)
		c.Stderr = c.Stdout
	}
	if err := c.Run(); err != nil {
		t.Fatalf("in namespaces: %v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "--- SKIP: "+t.Name()) {
		testneed.Skip(t, "in namespaces:\n"+out.String())
	}
	t.Logf("in namespaces:\n%s", out.String())
	return false
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// errDied says that a process ended before it answered.
var errDied = errors.New("it died")

// process is one of the gateway's two processes.
type process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan []byte   // its answers
	ended chan struct{} // closed when it is gone
}

// start starts a role, to die at a step if die is not empty.
func start(t testing.TB, role, dir, die string) *process {
	t.Helper()
	p := &process{name: role, cmd: exec.Command("/proc/self/exe"), lines: make(chan []byte, 1), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role, dirVariable+"="+dir, dieVariable+"="+die)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = os.Stderr
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	check(t, err)
	out, err := p.cmd.StdoutPipe()
	check(t, err)
	check(t, p.cmd.Start())
	go func() { // ends with the process
		in := bufio.NewScanner(out)
		in.Buffer(nil, 16<<20)
		for in.Scan() {
			p.lines <- append([]byte(nil), in.Bytes()...)
		}
		p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// kill is SIGKILL, awaited. It may have died before.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.await()
}

// await waits for its end, whatever it still says.
func (p *process) await() {
	for {
		select {
		case <-p.lines:
		case <-p.ended:
			p.stdin.Close()
			return
		}
	}
}

func (p *process) dead() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// ask sends one order and waits for the answer; errDied if there is none.
func (p *process) ask(order, answer any) error {
	b, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if _, err := p.stdin.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("%s: %w", p.name, errDied)
	}
	select {
	case line := <-p.lines:
		return json.Unmarshal(line, answer)
	case <-p.ended:
		select {
		case line := <-p.lines: // its last word
			return json.Unmarshal(line, answer)
		default:
		}
		return fmt.Errorf("%s: %w", p.name, errDied)
	}
}

// obey answers orders from standard input until it ends.
func obey[T any](do func(T) any) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var order T
		if err := json.Unmarshal(in.Bytes(), &order); err != nil {
			return err
		}
		b, err := json.Marshal(do(order))
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return in.Err()
}
