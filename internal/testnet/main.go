package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// self is the program's own file, reached even where the path to it is hidden.
const self = "/proc/self/exe"

// What tells a process of the lab what it is. Both leave the environment at once.
const (
	roleEnv   = "LAZARET_TESTNET_ROLE"
	reportEnv = "LAZARET_TESTNET_REPORT" // set where reportFD is open
)

// Descriptors that are handed to children.
const (
	controlFD = 3 // of the first process and of the hosts' agents
	reportFD  = 3 // of roles and programs
)

// Built-in roles.
const (
	roleFirst     = "testnet.first"
	roleHost      = "testnet.host"
	roleWireGuard = "testnet.wireguard"
	roleDrop      = "testnet.drop"
	roleNothing   = "testnet.nothing"
)

var (
	reportFile *os.File
	mainCalled bool // Start refuses otherwise: the lab's processes would run the program again, and so on
)

// Main must be called before anything else by a program that uses a lab: in a
// test binary, at the start of TestMain. In a process of a lab it does that
// process's work and exits; in any other it returns. Roles are what [Host.Run]
// may start.
func Main(roles map[string]Role) {
	mainCalled = true
	name, ok := os.LookupEnv(roleEnv)
	if !ok {
		return
	}
	os.Unsetenv(roleEnv)
	if _, ok := os.LookupEnv(reportEnv); ok && name != roleDrop {
		os.Unsetenv(reportEnv)
		unix.CloseOnExec(reportFD)
		reportFile = os.NewFile(reportFD, "reports")
	}
	role := roles[name]
	if strings.HasPrefix(name, "testnet.") {
		role = builtin(name)
	}
	if role == nil {
		fmt.Fprintf(os.Stderr, "no role %q\n", name)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := role(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func builtin(name string) Role {
	switch name {
	case roleFirst:
		return runFirst
	case roleHost:
		return runHost
	case roleWireGuard:
		return runWireGuard
	case roleDrop:
		return runDrop
	case roleNothing:
		return func(context.Context, []string) error { return nil }
	}
	return nil
}

// Report sends v from a role to whoever holds its [Process], where Next returns
// it: that a server is ready, say, or what was measured.
func Report(v any) error {
	if reportFile == nil {
		return errors.New("reporting: not a role of a lab")
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	if _, err := reportFile.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("reporting: %w", err)
	}
	return nil
}
