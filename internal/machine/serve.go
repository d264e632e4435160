package machine

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/supervise"
	"lazaret/internal/config"
)

// The two parts of a gateway.
const (
	dataPlane = "dataplane"
	control   = "serve"
)

// serve runs the gateway, after it was claimed if it was nobody's.
func (m *Machine) serve(ctx context.Context) error {
	yes, err := claimedState()
	if err != nil {
		return err
	}
	if !yes {
		if err := m.beClaimed(ctx); err != nil {
			return err
		}
		if err := m.useKept(ctx); err != nil { // the claimant has the answer by now
			m.problem("network", fmt.Sprintf("The network that the claim gave could not be set up: %v.", err))
		}
	}
	c, err := config.Load(appliance.ConfigPath)
	if err != nil {
		return err
	}
	at := urls(c, m.network.Links()) // never while what is shown is held: others ask for both
	m.name.Store(&c.Name)
	m.show(func(st *state) { st.stage, st.name, st.urls = appliance.Running, c.Name, at })
	if err := m.listen(ctx); err != nil {
		return err
	}
	if err := m.updates().Begin(); err != nil {
		return m.leave(err.Error())
	}
	if err := m.startParts(); err != nil {
		return err
	}
	return m.watch(ctx, c, time.Now())
}

// startParts starts the two processes of a gateway. The boot table stays until the data
// plane's own stands, for as long as that takes: there is nothing to put in its place.
func (m *Machine) startParts() error {
	if err := m.parts.Start(supervise.Part{
		Name: dataPlane, Args: []string{dataPlane, "--confine", "-c", appliance.ConfigPath}, User: appliance.PlaneUser, Group: appliance.PlaneUser,
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}, Notify: true, Files: 65536, Tasks: 1024, Memory: memory().Size / 2, OOMScore: -900,
	}); err != nil {
		return err
	}
	return m.parts.Start(controlPart())
}

func controlPart() supervise.Part {
	return supervise.Part{
		Name: control, Args: []string{control, "--confine", "-c", appliance.ConfigPath}, User: appliance.ControlUser, Group: appliance.ControlUser,
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE}, Notify: true, Watchdog: 2 * time.Minute, Files: 262144, Tasks: 4096, Memory: memory().Size * 3 / 4, OOMScore: -500,
	}
}

// urls are where people find this gateway: by the names it was given, else its addresses.
func urls(c config.Config, links []appliance.LinkIs) []string {
	var out []string
	for _, n := range c.Enroll.Names {
		out = append(out, "https://"+host(n))
	}
	for _, at := range c.API.Listen {
		if at.Addr().IsUnspecified() {
			for _, l := range links {
				for _, p := range l.Addresses {
					if p.Addr().Is4() == at.Addr().Is4() && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsLoopback() {
						out = append(out, fmt.Sprintf("https://%s:%d", host(p.Addr().String()), at.Port()))
					}
				}
			}
			continue
		}
		out = append(out, "https://"+at.String())
	}
	return out
}

// host is a name or an address as it stands in a URL.
func host(s string) string {
	for _, c := range s {
		if c == ':' {
			return "[" + s + "]"
		}
	}
	return s
}
