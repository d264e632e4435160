package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/internal/config"
	"lazaret/internal/daemon"
	"lazaret/internal/plane"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// lifeEnv gives certificates a life shorter than a configuration file may.
const lifeEnv = "LAZARET_TEST_CERTIFICATE_LIFE"

func TestMain(m *testing.M) {
	testnet.Main(map[string]testnet.Role{
		"serve": func(ctx context.Context, args []string) error {
			return runDaemon(args[0], func(c config.Config, log *slog.Logger) error {
				if life, err := time.ParseDuration(os.Getenv(lifeEnv)); err == nil && life > 0 {
					c.Quarantine.CertificateLife = life
				}
				return daemon.Serve(ctx, c, "test", log, ready)
			})
		},
		"dataplane": func(ctx context.Context, args []string) error {
			return runDaemon(args[0], func(c config.Config, log *slog.Logger) error { return plane.Run(ctx, c, log, ready) })
		},
		"door":         runDoor,
		"nameserver":   runNameServer,
		"logserver":    runLogServer,
		"agent":        runAgent,
		"agent enroll": runAgentEnroll,
	})
	status := m.Run()
	if shared.net != nil {
		if err := shared.net.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "ending the lab:", err)
			status = max(status, 1)
		}
	}
	if err := os.RemoveAll(programs.dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

func runDaemon(path string, part func(config.Config, *slog.Logger) error) error {
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	return part(c, c.Logger(os.Stderr))
}

func ready() {
	if err := testnet.Report("ready"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// shared is the lab that all tests use; each gateway has a host of its own in it.
var shared struct {
	once sync.Once
	net  *testnet.Net
	err  error
}

func theLab(t testing.TB) *testnet.Net {
	t.Helper()
	testneed.Namespaces(t)
	shared.once.Do(func() {
		shared.net, shared.err = testnet.Standard(context.Background(), testnet.Config{}, testnet.Params{})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.net
}

// passage asks a door for a connection: from where in the host's network to where.
type passage struct {
	To     netip.AddrPort `json:"to"`
	From   netip.Addr     `json:"from"`
	Device string         `json:"device"`
}

// runDoor opens connections inside its host for whoever asks on the socket, the argument,
// so that the test process can be a client in any host's network. Each connection begins
// with a passage and a line that is empty or says why there is none.
func runDoor(ctx context.Context, args []string) error {
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	ready()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		go pass(ctx, c.(*net.UnixConn))
	}
}

func pass(ctx context.Context, in *net.UnixConn) {
	defer in.Close()
	var p passage
	line := make([]byte, 0, 256)
	for b := make([]byte, 1); ; {
		if _, err := in.Read(b); err != nil {
			return
		}
		if line = append(line, b[0]); b[0] == '\n' {
			break
		}
	}
	if json.Unmarshal(line, &p) != nil {
		return
	}
	var d net.Dialer
	if p.From.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.From, 0))
	}
	if p.Device != "" {
		d.Control = func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), p.Device) })
			if err == nil {
				err = cerr
			}
			return err
		}
	}
	out, err := d.DialContext(ctx, "tcp", p.To.String())
	if err != nil {
		fmt.Fprintln(in, err)
		return
	}
	defer out.Close()
	if _, err := fmt.Fprintln(in); err != nil {
		return
	}
	var both sync.WaitGroup
	copyTo := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite()
		}
	}
	both.Go(func() { copyTo(out, in) })
	both.Go(func() { copyTo(in, out) })
	both.Wait()
}
