package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(map[string]Role{
		"greet":     greet,
		"privilege": privilege,
		"keep":      keep,
		"refused":   refused,
		"overflow":  func(context.Context, []string) error { return overflow() },
	})
	os.Exit(m.Run())
}

// greet reports its arguments and what it reads, and stays until told to go.
func greet(ctx context.Context, args []string) error {
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	fmt.Println("hello from a role")
	if err := Report(append(args, string(in))); err != nil {
		return err
	}
	<-ctx.Done()
	return errors.New("told to go")
}

// privilege reports what it may do: whether the kernel lets it add an interface,
// and whether it can gain anything.
func privilege(context.Context, []string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "extra"
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	caps, capErr := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_NET_ADMIN, 0, 0, 0)
	noNew, newErr := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	if err := errors.Join(capErr, newErr); err != nil {
		return err
	}
	return Report([]bool{err == nil, errors.Is(err, syscall.EPERM), caps == 1, noNew == 1})
}

// keep starts a lab and never ends it.
func keep(ctx context.Context, _ []string) error {
	l, err := Start(context.Background(), Config{Dir: os.Getenv("KEEP_DIR")})
	if err != nil {
		return err
	}
	if _, err := l.AddHost(ctx, "lonely"); err != nil {
		return err
	}
	fmt.Println(l.PID())
	select {}
}

// refused forbids further namespaces in its own, and reports how a lab says so.
func refused(ctx context.Context, args []string) error {
	if err := os.WriteFile("/proc/sys/user/"+args[0], []byte("0"), 0); err != nil {
		return err
	}
	l, err := Start(ctx, Config{UserNamespace: args[0] == "max_user_namespaces"})
	if err == nil {
		return errors.Join(errors.New("a lab was started"), l.Close())
	}
	return Report(err.Error())
}
