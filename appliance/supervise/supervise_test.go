package supervise

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

func TestMain(m *testing.M) {
	if os.Getenv("LAZARET_TEST_PROBE") != "" {
		os.Exit(0)
	}
	if len(os.Args) > 2 && os.Args[1] == "part" {
		TakeName()
		os.Exit(play(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// play is what the parts of these tests do.
func play(args []string) int {
	switch args[0] {
	case "serve", "stubborn":
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, syscall.SIGTERM)
		tellReady()
		fmt.Fprintln(os.Stderr, "serving")
		for {
			<-terms
			if args[0] == "serve" {
				fmt.Fprintln(os.Stderr, "ending")
				return 0
			}
			fmt.Fprintln(os.Stderr, "not yet")
		}
	case "silent":
		forever()
	case "heart": // beats some times, as often as it is asked to, and then no more
		us, _ := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
		tell("READY=1")
		for range 8 {
			time.Sleep(time.Duration(us) * time.Microsecond / 4) // its only work is to let time pass
			tell("WATCHDOG=1")
		}
		fmt.Fprintln(os.Stderr, "beaten")
		forever()
	case "fail":
		fmt.Fprintln(os.Stderr, "failing\nlazaretd: making listener certificate: the clock is too far ahead\x1b [2J\n\nafter")
		return 7
	case "show":
		in, _ := io.ReadAll(os.Stdin) // and by then the limits stand
		status, _ := os.ReadFile("/proc/self/status")
		var files unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &files)
		called, _ := os.ReadFile("/proc/self/cmdline")
		fmt.Printf("%sfiles %d\nenv %q\nin %q\ncalled %q\n", status, files.Max, os.Environ(), in, called)
		slack, _ := os.ReadFile("/proc/self/timerslack_ns")
		fmt.Printf("slack %s", slack)
		handed, _ := io.ReadAll(os.NewFile(3, "handed"))
		fmt.Printf("handed %q\n", handed)
		fmt.Fprintln(os.Stderr, "shown")
	case "status":
		n, _ := strconv.Atoi(args[1])
		return n
	case "leave": // a process behind, whose parent is gone
		c := exec.Command("/proc/self/exe", "part", "status", "3")
		if err := c.Start(); err != nil {
			return 1
		}
	case "first":
		return first()
	}
	return 0
}

func tellReady() { tell("STATUS=here\nREADY=1\n") }

func tell(state string) {
	conn, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err == nil {
		_, _ = conn.Write([]byte(state))
		conn.Close()
	}
}

// heard is what parts said.
type heard struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func newHeard() *heard { return &heard{more: make(chan struct{}, 1)} }

func (h *heard) read(part string, from io.Reader) {
	for lines := bufio.NewScanner(from); lines.Scan(); {
		h.mu.Lock()
		h.lines = append(h.lines, part+": "+lines.Text())
		h.mu.Unlock()
		select {
		case h.more <- struct{}{}:
		default:
		}
	}
}

func (h *heard) all() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}

func newSupervisor(t *testing.T) (*Supervisor, *heard) {
	t.Helper()
	h := newHeard()
	s, err := New(Config{Log: slog.New(slog.DiscardHandler), Output: h.read, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, h
}

func part(name string, args ...string) Part {
	return Part{Name: name, Args: append([]string{"part"}, args...), User: os.Geteuid(), Group: os.Getegid(), Notify: true}
}

// until waits for what Parts says of a part.
func until(t *testing.T, s *Supervisor, name string, ask func(appliance.Part) bool) appliance.Part {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		for _, p := range s.Parts() {
			if p.Name == name && ask(p) {
				return p
			}
		}
		select {
		case <-s.Changed():
		case <-limit:
			t.Fatalf("%s is never as wanted: %+v", name, s.Parts())
		}
	}
}

// TestPartIsReadyAndEnds: a part is ready when it says so and not before, ends on SIGTERM,
// and what it says is kept.
func TestPartIsReadyAndEnds(t *testing.T) {
	s, h := newSupervisor(t)
	if err := s.Start(part("one", "serve")); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(part("one", "serve")); err == nil {
		t.Error("a part was started twice")
	}
	if err := s.Ready(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if p := s.Parts(); len(p) != 1 || !p[0].Ready || p[0].Restarts != 0 || len(s.Problems()) != 0 {
		t.Errorf("ready: %+v %v", p, s.Problems())
	}
	if err := s.Restart("one"); err != nil {
		t.Fatal(err)
	}
	p := until(t, s, "one", func(p appliance.Part) bool { return p.Ready && p.Restarts == 1 })
	if p.Last != "exit status 0" || len(s.Problems()) != 0 {
		t.Errorf("after a restart: %+v %v", p, s.Problems())
	}
	if err := s.Stop("one"); err != nil {
		t.Fatal(err)
	}
	if got, want := h.all(), "one: serving\none: ending\none: serving\none: ending"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
	if len(s.Parts()) != 0 || s.Stop("one") == nil {
		t.Error("a part that was stopped is still there")
	}
}

// TestNobodyElseSaysReady: only the part's own process is believed.
func TestNobodyElseSaysReady(t *testing.T) {
	s, _ := newSupervisor(t)
	if err := s.Start(part("one", "silent")); err != nil {
		t.Fatal(err)
	}
	path := s.c.Dir + "/one.notify"
	for limit := time.After(30 * time.Second); ; {
		if conn, err := net.Dial("unixgram", path); err == nil {
			for range 3 {
				if _, err := conn.Write([]byte("READY=1")); err != nil {
					t.Fatal(err)
				}
			}
			conn.Close()
			break
		}
		select {
		case <-limit:
			t.Fatal("no socket")
		case <-time.After(time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Ready(ctx, "one"); err == nil {
		t.Error("another process's word was taken")
	}
}

// TestPartThatFails is started again with growing pauses, and is a problem until it is ready.
func TestPartThatFails(t *testing.T) {
	s, h := newSupervisor(t)
	begun := time.Now()
	if err := s.Start(part("one", "fail")); err != nil {
		t.Fatal(err)
	}
	p := until(t, s, "one", func(p appliance.Part) bool { return p.Restarts >= 3 })
	if p.Last != "exit status 7" || p.Ready {
		t.Errorf("%+v", p)
	}
	if took := time.Since(begun); took < shortPause+2*shortPause {
		t.Errorf("three runs in %s: the pauses are too short", took)
	}
	if got := s.Problems(); len(got) != 1 || got[0] != "one does not run: exit status 7 (making listener certificate: the clock is too far ahead? [2J)." {
		t.Errorf("problems %q", got)
	}
	if !strings.Contains(h.all(), "one: failing") {
		t.Error("its last words are lost")
	}
}

// TestPartWithoutAHeartbeat is left alone while its heart beats, and started again after.
func TestPartWithoutAHeartbeat(t *testing.T) {
	s, h := newSupervisor(t)
	p := part("one", "heart")
	p.Watchdog, p.StopWithin = 2*time.Second, 100*time.Millisecond
	if err := s.Start(p); err != nil {
		t.Fatal(err)
	}
	is := until(t, s, "one", func(p appliance.Part) bool { return p.Restarts >= 1 })
	if !strings.HasPrefix(is.Last, "no sign of life for 2s") || !strings.Contains(h.all(), "one: beaten") {
		t.Errorf("%+v %q", is, h.all())
	}
}

// TestPartThatIsNeverReady is ended, however stubborn, started again, and a problem.
func TestPartThatIsNeverReady(t *testing.T) {
	s, _ := newSupervisor(t)
	p := part("one", "silent")
	p.ReadyWithin, p.StopWithin = 100*time.Millisecond, 100*time.Millisecond
	if err := s.Start(p); err != nil {
		t.Fatal(err)
	}
	is := until(t, s, "one", func(p appliance.Part) bool { return p.Restarts >= 1 })
	if !strings.HasPrefix(is.Last, "not ready within 100ms") || len(s.Problems()) != 1 {
		t.Errorf("%+v %q", is, s.Problems())
	}
	stubborn := part("two", "stubborn")
	stubborn.StopWithin = 100 * time.Millisecond
	if err := s.Start(stubborn); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart("two"); err != nil {
		t.Fatal(err)
	}
	if is := until(t, s, "two", func(p appliance.Part) bool { return p.Restarts >= 1 }); is.Last != "signal killed" {
		t.Errorf("%+v", is)
	}
}

// TestOnce: one run with input, output, limits and an environment of its own.
func TestOnce(t *testing.T) {
	s, h := newSupervisor(t)
	p := part("once", "show")
	p.Files, p.Env = 64, []string{"A=b"}
	var out bytes.Buffer
	if err := s.Once(t.Context(), p, strings.NewReader("given"), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"files 64\n", "env [\"A=b\"]\n", "in \"given\"\n", "Name:\tlazaretd-once\n", `called "lazaretd-once\x00part\x00show\x00"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %s", want, &out)
		}
	}
	if h.all() != "once: shown" {
		t.Errorf("heard %q", h.all())
	}
	if err := s.Once(t.Context(), part("once", "status", "9"), nil, nil); err == nil || !strings.Contains(err.Error(), "exit status 9") {
		t.Errorf("a run that failed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Once(ctx, part("once", "silent"), nil, nil); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a run cut short: %v", err)
	}
}

// TestOtherUser: a part runs as its user, in no other group, with the capabilities it was
// given and no others.
func TestOtherUser(t *testing.T) {
	testneed.Root(t, "to start a process as another user")
	s, _ := newSupervisor(t)
	p := part("other", "show")
	p.User, p.Group, p.AmbientCaps = appliance.PlaneUser, appliance.PlaneUser, []uintptr{unix.CAP_NET_ADMIN}
	p.OOMScore = 500
	p.Inherit = func() ([]*os.File, error) {
		r, w, err := os.Pipe()
		if err == nil {
			_, err = w.WriteString("over")
			w.Close()
		}
		return []*os.File{r}, err
	}
	var out bytes.Buffer
	if err := s.Once(t.Context(), p, nil, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Uid:\t902\t902\t902\t902\n", "Gid:\t902\t902\t902\t902\n", "Groups:\t \n", "CapEff:\t0000000000001000\n", "CapPrm:\t0000000000001000\n", "CapBnd:\t0000000000001000\n", "NoNewPrivs:\t1\n", "Name:\tlazaretd-other\n", "slack 1000000\n", "handed \"over\"\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in %s", want, &out)
		}
	}
}

// TestFirstProcess: as process number 1, in a namespace of its own, orphans are taken in
// and not one child's end is lost to that.
func TestFirstProcess(t *testing.T) {
	testneed.Namespaces(t)
	c := exec.Command("/proc/self/exe", "part", "first")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if out, err := c.CombinedOutput(); err != nil || string(out) != "all taken in\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// first is process number 1: forty children end in their ways while others leave orphans
// behind, and at last there is no child left.
func first() int {
	if os.Getpid() != 1 {
		fmt.Println("not the first process")
		return 1
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		fmt.Println("mounting proc:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "supervise-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	s, err := New(Config{Log: slog.New(slog.DiscardHandler), Output: func(_ string, r io.Reader) { _, _ = io.Copy(io.Discard, r) }, Dir: dir, Orphans: true})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			want := fmt.Sprintf("exit status %d", 100+i)
			if err := s.Once(context.Background(), part("child-"+strconv.Itoa(i), "status", strconv.Itoa(100+i)), nil, nil); err == nil || !strings.Contains(err.Error(), want) {
				fmt.Println("lost an end:", err)
			}
			if err := s.Once(context.Background(), part("parent-"+strconv.Itoa(i), "leave"), nil, nil); err != nil {
				fmt.Println("leaving an orphan:", err)
			}
		})
	}
	all.Wait()
	var info unix.Siginfo
	for limit := time.After(20 * time.Second); ; { // until no child is left
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err == unix.ECHILD {
			break
		}
		select {
		case <-limit:
			fmt.Println("children are left")
			return 1
		case <-time.After(time.Millisecond):
		}
	}
	if err := s.Close(); err != nil {
		fmt.Println(err)
	}
	fmt.Println("all taken in")
	return 0
}

// TestSlacken: all threads of this process have the slack, as the kernel shows it.
func TestSlacken(t *testing.T) {
	testneed.Root(t, "to see to the timers of other threads")
	if err := Slacken(); err != nil {
		t.Fatal(err)
	}
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 2 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		got, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if os.IsNotExist(err) {
			continue // it has ended
		}
		if err != nil || string(got) != "1000000\n" {
			t.Errorf("thread %s: %q, %v", thread.Name(), got, err)
		}
	}
}

// forever does nothing until a signal ends the process. It waits for one that nobody sends: a
// select without cases would end a program without threads of C by Go's search for deadlocks.
func forever() {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGUSR1)
	<-c
}
