package testnet

import (
	"net/netip"
	"testing"
)

func TestLabTry(t *testing.T) {
	for _, userns := range []bool{true, false} {
		l, err := Start(t.Context(), Config{UserNamespace: userns, Log: t.Output()})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a, err := l.AddHost(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Link(t.Context(), a, "net", "eth0", netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")); err != nil {
			t.Fatal(err)
		}
		p, err := a.Command(t.Context(), "/bin/sh", "-c", "id; ip addr; ls -la /run /var/run/; exit 3")
		if err != nil {
			t.Fatal(err)
		}
		t.Log(p.Wait(t.Context()), p.ExitCode())
		p, err = a.Start(t.Context(), Spec{Path: "/bin/cat", Args: []string{"/proc/self/status"}, NoPrivileges: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Log(p.Wait(t.Context()), p.Output())
		p, err = a.Run(t.Context(), "nap", "x", "y")
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		t.Log(p.Next(t.Context(), &s), s)
		t.Log(p.Kill(t.Context()))
		t.Log(p.Wait(t.Context()))
	}
}
