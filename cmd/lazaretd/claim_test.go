package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/internal/making"
	"lazaret/internal/testneed"
)

// TestMain runs the program itself where a test started it as one.
func TestMain(m *testing.M) {
	if os.Getenv("LAZARET_TEST_PROGRAM") != "" {
		main()
		os.Exit(0)
	}
	if code, done := testneed.WithoutCgo(); done { // confined processes are built without
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// program is this program with arguments, as a process of its own.
func program(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "/proc/self/exe", args...)
	c.Env = append(os.Environ(), "LAZARET_TEST_PROGRAM=1")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.Stderr = os.Stderr
	return c
}

func newRequest(t *testing.T, r claim.Request) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := claim.NewRequest(r, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, text
}

// TestClaimAsProcesses: the door and the maker as an appliance's first process runs them, with
// secrets in their pipes alone.
func TestClaimAsProcesses(t *testing.T) {
	dir := t.TempDir()
	at := making.Places{Config: filepath.Join(dir, "config", "lazaretd.toml"), State: filepath.Join(dir, "lazaret"), Plane: filepath.Join(dir, "dataplane")}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	ours, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	notified, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notified.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	door := program(t.Context(), "claim", "--listen", address)
	door.Env = append(door.Env, "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	door.ExtraFiles = []*os.File{theirs}
	if err := door.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()

	var made making.Made
	code := claim.DrawCode()
	keeper, err := claim.NewKeeper(claim.KeeperConfig{
		Code: code, Log: slog.New(slog.DiscardHandler),
		Make: func(ctx context.Context, r claim.Request, step func(string)) (claim.Answer, error) {
			in, err := json.Marshal(making.Request{Claim: r, Network: appliance.Automatic(), Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.20/24")}})
			if err != nil {
				return claim.Answer{}, err
			}
			made, err = makeConfined(ctx, at, in, step)
			return made.Answer, err
		},
		Keep: func(context.Context) error { return making.Keep(at, made.Config) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- keeper.Run(t.Context(), ours) }()
	if _, err := notified.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	setup := appliance.Setup{EnrollNames: []string{"gw.example.com"}, Management: []string{"192.0.2.10 tcp/443"}}
	key, text := newRequest(t, claim.Request{Setup: setup})
	k, err := claim.Dial(t.Context(), address, code, text, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	a, err := k.Claim(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim.CredentialOf(a, key); err != nil {
		t.Error(err)
	}
	if err := k.Kept(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := door.Wait(); err != nil {
		t.Errorf("the door: %v", err)
	}
	if _, err := os.Stat(at.Config); err != nil {
		t.Error(err)
	}
	// Another administrator, of the gateway that is there now.
	_, text = newRequest(t, claim.Request{AdministratorOnly: true, Setup: appliance.Setup{Administrator: "second"}})
	r, _, err := claim.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(making.Request{Claim: r})
	if err != nil {
		t.Fatal(err)
	}
	second, err := makeConfined(t.Context(), at, in, nil)
	if err != nil || second.Answer.RootSHA256 != made.Answer.RootSHA256 || len(second.Answer.Administrator) == 0 {
		t.Errorf("a second administrator: %v", err)
	}
}

// makeConfined has a confined process make what a request asks for.
func makeConfined(ctx context.Context, at making.Places, request []byte, step func(string)) (making.Made, error) {
	maker := program(ctx, "make", "--confine", "--state", at.State, "--dataplane-state", at.Plane, "--to", at.Config)
	maker.Stdin = bytes.NewReader(request)
	out, err := maker.Output()
	if err != nil {
		return making.Made{}, err
	}
	return making.ReadMade(bytes.NewReader(out), step)
}
