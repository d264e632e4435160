package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/internal/agent"
	"lazaret/internal/config"
	"lazaret/internal/daemon"
	"lazaret/internal/plane"
	"lazaret/internal/testnet"
	"lazaret/internal/version"
)

// roles are what runs inside the hosts. The first ones are the very functions that the
// programs lazaretd and lazaret run.
var roles = map[string]testnet.Role{
	"dataplane": func(ctx context.Context, args []string) error {
		return runDaemon(args, func(c config.Config, log *slog.Logger) error { return plane.Run(ctx, c, log, ready) })
	},
	"serve": func(ctx context.Context, args []string) error {
		return runDaemon(args, func(c config.Config, log *slog.Logger) error {
			return daemon.Serve(ctx, c, version.String(), log, ready)
		})
	},
	"agent":       runAgent,
	"enroll":      runEnroll,
	"ask":         runAsk,
	"operator":    runOperator,
	"outside":     runOutside,
	"firewall":    runFirewall,
	"knock":       runKnock,
	"refused":     runRefused,
	"self-report": runSelfReport,
	"renew":       runRenew,
	"watch":       runWatch,
	"elements":    runElements,
}

func ready() {
	if err := testnet.Report("ready"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

func logger() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

// runDaemon runs a part of the gateway; the argument is the configuration file.
func runDaemon(args []string, part func(config.Config, *slog.Logger) error) error {
	c, err := config.Load(args[0])
	if err != nil {
		return err
	}
	return part(c, c.Logger(os.Stderr))
}

// runAgent holds the tunnel; the arguments are the state directory and the socket.
func runAgent(ctx context.Context, args []string) error {
	return agent.Run(ctx, agent.Config{Dir: args[0], Socket: args[1], NoDNS: true, Log: logger()}, ready)
}

// enrolled is what runEnroll reports.
type enrolled struct {
	Device    string         `json:"device"`
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses"`
	Serial    string         `json:"serial"` // of the certificate
	NotAfter  time.Time      `json:"not_after"`
	WireGuard string         `json:"wireguard"` // the gateway's key
	Endpoint  string         `json:"endpoint"`
	Error     string         `json:"error,omitempty"`
}

// runEnroll enrolls; the arguments are the state directory and the gateway's URL, the
// code comes on standard input.
func runEnroll(ctx context.Context, args []string) error {
	text, err := io.ReadAll(io.LimitReader(os.Stdin, 4096))
	if err != nil {
		return err
	}
	c, err := code.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	r, err := agent.Enroll(ctx, agent.EnrollOptions{Dir: args[0], Server: args[1], Code: c, Log: logger()})
	if err != nil && !(r != nil && errors.Is(err, client.ErrUnconfirmed)) {
		return testnet.Report(enrolled{Error: err.Error()})
	}
	g := r.Settings.Gateways[0]
	return testnet.Report(enrolled{
		Device: r.Settings.Device, Name: r.Settings.Name, Addresses: r.Settings.Quarantine.Addresses,
		Serial: r.Certificate.SerialNumber.Text(16), NotAfter: r.Certificate.NotAfter, WireGuard: g.WireGuard, Endpoint: g.Endpoints[0],
	})
}

// asked is what runAsk reports.
type asked struct {
	State    agent.State   `json:"state"`
	Sent     testnet.Stamp `json:"sent"`
	Answered testnet.Stamp `json:"answered"`
	Error    string        `json:"error,omitempty"`
}

// runAsk gives the running agent an order: the socket, the order and for a report the verdict.
func runAsk(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r := agent.Request{Op: args[1]}
	if len(args) > 2 {
		r.Verdict = args[2]
	}
	a := asked{Sent: testnet.Now()}
	var err error
	a.State, err = agent.Ask(ctx, args[0], r)
	a.Answered = testnet.Now()
	if err != nil {
		a.Error = err.Error()
	}
	return testnet.Report(a)
}

// knocker is what runKnock is told.
type knocker struct {
	From   netip.Addr     `json:"from,omitzero"`
	Device string         `json:"device,omitempty"` // bind to this interface
	To     netip.AddrPort `json:"to"`
	Every  time.Duration  `json:"every"`
}

// runKnock sends a small UDP packet again and again, whether or not there is a way, until
// it is told to stop. The socket is not connected, so that each packet looks for its route
// and source address anew.
func runKnock(ctx context.Context, args []string) error {
	var k knocker
	if err := json.Unmarshal([]byte(args[0]), &k); err != nil {
		return err
	}
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if k.Device != "" {
			err = raw.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), k.Device) })
		}
		return err
	}}
	local := ":0"
	if k.From.IsValid() {
		local = netip.AddrPortFrom(k.From, 0).String()
	}
	network := "udp4"
	if k.To.Addr().Is6() {
		network = "udp6"
	}
	pc, err := lc.ListenPacket(ctx, network, local)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer pc.Close()
	c := pc.(*net.UDPConn)
	if err := testnet.Report(c.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		return err
	}
	tick := time.NewTicker(k.Every)
	defer tick.Stop()
	for {
		_, _ = c.WriteToUDPAddrPort([]byte("knock"), k.To) // no way yet is what is waited for
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
