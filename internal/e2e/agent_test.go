package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/enroll/code"
	"lazaret/internal/agent"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// agentSpec is the agent to run, as it travels to its role.
type agentSpec struct {
	Dir, Socket string
	Etc         string // directory that becomes the host's /etc; empty: DNS servers are left alone
	Resolv      string // file that is mounted at /etc/resolv.conf, as in a container; may be empty
	TPM         string // socket of a software TPM; empty: none is asked
	KillAt      string // a step at which the process kills itself
}

func runAgent(ctx context.Context, args []string) error {
	var s agentSpec
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	for _, m := range [][2]string{{s.Etc, "/etc"}, {s.Resolv, "/etc/resolv.conf"}} {
		if m[0] == "" {
			continue
		}
		if err := unix.Mount(m[0], m[1], "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	return agent.Run(ctx, agent.Config{
		Dir: s.Dir, Socket: s.Socket, NoDNS: s.Etc == "", TPM: cmp.Or(s.TPM, agent.NoTPM), Schedule: agent.Schedule{First: time.Hour, Every: time.Hour, Times: 1},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Step: func(name string) {
			if name == s.KillAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {} // the signal may take a moment
			}
		},
	}, ready)
}

// runAgentEnroll enrolls: directory, server, code.
func runAgentEnroll(ctx context.Context, args []string) error {
	c, err := code.Parse(args[2])
	if err != nil {
		return err
	}
	_, err = agent.Enroll(ctx, agent.EnrollOptions{Dir: args[0], Server: args[1], Code: c, Log: slog.New(slog.DiscardHandler)})
	return err
}

// laptop is a device with our agent, in a host of its own.
type laptop struct {
	g      *gateway
	host   *testnet.Host
	config agentSpec
	run    *testnet.Process
	id     string
}

var laptops atomic.Int32

// newLaptop makes a host on the outer network; outer are its addresses there, by default
// one of IPv4.
func newLaptop(t testing.TB, g *gateway, outer ...netip.Prefix) *laptop {
	t.Helper()
	lab, n := theLab(t), laptops.Add(1)
	h, err := lab.AddHost(soon(t), fmt.Sprintf("laptop%d", n))
	if err != nil {
		t.Fatal(err)
	}
	if outer == nil {
		outer = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(200 + n)}), 24)}
	}
	if err := lab.Link(soon(t), h, "outer", "outer", outer...); err != nil {
		t.Fatal(err)
	}
	l := &laptop{g: g, host: h, config: agentSpec{Dir: filepath.Join(h.Dir(), "agent"), Socket: filepath.Join(h.Dir(), "agent.sock")}}
	t.Cleanup(func() {
		if l.run != nil {
			l.end(t)
		}
	})
	return l
}

// enroll enrolls at a URL of the gateway.
func (l *laptop) enroll(t testing.TB, url string, r api.OTPRequest) {
	t.Helper()
	p, err := l.host.Run(soon(t), "agent enroll", l.config.Dir, url, l.g.otp(t, r).Code)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); err != nil {
		t.Fatal(err)
	}
	l.id = l.g.one(t, r.User).ID
}

// start runs the agent; killAt is a step at which it kills itself, if it comes to that.
func (l *laptop) start(t testing.TB, killAt string) {
	t.Helper()
	spec := l.config
	spec.KillAt = killAt
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if l.run, err = l.host.Run(soon(t), "agent", string(text)); err != nil {
		t.Fatal(err)
	}
	var word string
	if err := l.run.Next(soon(t), &word); err != nil {
		t.Fatal(err)
	}
}

// end ends the agent as lazaret down does.
func (l *laptop) end(t testing.TB) {
	t.Helper()
	end, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.run.Stop(end); err != nil {
		t.Error(err)
	}
	l.run = nil
}

// ask gives the agent an order, which it must take.
func (l *laptop) ask(t testing.TB, op string) agent.State {
	t.Helper()
	st, err := agent.Ask(soon(t), l.config.Socket, agent.Request{Op: op})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// stands waits until the agent knows that it is in a stage, and has set up its network.
func (l *laptop) stands(t testing.TB, stage string) {
	t.Helper()
	until(t, l.id+" knows that it is "+stage, func() bool {
		st := l.ask(t, "status")
		return st.Status != nil && st.Status.Stage == stage && st.Problem == ""
	})
}

// reaches asks whether something gets there and back in time, by the device's own routes.
func (l *laptop) reaches(t testing.TB, proto testnet.Proto, to netip.AddrPort, within time.Duration) bool {
	t.Helper()
	r, err := l.host.Probe(soon(t), testnet.ProbeSpec{Proto: proto, To: to, Timeout: within})
	if err != nil {
		t.Fatal(err)
	}
	return r.Passed()
}
