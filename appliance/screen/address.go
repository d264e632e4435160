package screen

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"lazaret/appliance"
)

// setAddress asks which card, and how it is connected, and has it set.
func setAddress(ctx context.Context, t *terminal, st appliance.Status) error {
	card, err := t.card(ctx, st.Links)
	if err != nil {
		return err
	}
	link := appliance.Link{DHCP4: true, DHCP6: true, AcceptRA: true}
	for {
		how, err := t.ask(ctx, entry{prompt: "d: by DHCP and router advertisements; s: static addresses:", limit: 1})
		if err != nil {
			return err
		}
		if how == "d" {
			break
		}
		if how == "s" {
			if link, err = t.static(ctx); err != nil {
				return err
			}
			break
		}
	}
	if err := t.say("", card+": "+describe(link)); err != nil {
		return err
	}
	if err := t.sure(ctx, "yes"); err != nil {
		return err
	}
	return t.act(ctx, func(ctx context.Context) error { return t.screen.config.Actions.SetAddress(ctx, card, link) })
}

// card has one of the links chosen by its number.
func (t *terminal) card(ctx context.Context, links []appliance.LinkIs) (string, error) {
	if len(links) == 0 {
		return "", t.leaveSaying(ctx, "This machine has no network card that this image has a driver for.")
	}
	if err := t.say("Set the address of a network card; Esc leaves everything as it is.", ""); err != nil {
		return "", err
	}
	links = links[:min(len(links), 16)]
	for i, l := range links {
		if err := t.say(fmt.Sprintf("%2d  %s  %s  %s", i+1, l.Name, l.MAC, strings.Join(addresses(l.Addresses), " "))); err != nil {
			return "", err
		}
	}
	for {
		text, err := t.ask(ctx, entry{prompt: "Number of the card:", limit: 2})
		if err != nil {
			return "", err
		}
		if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= len(links) {
			return links[n-1].Name, nil
		}
	}
}

func (t *terminal) leaveSaying(ctx context.Context, text string) error {
	if err := t.say(text); err != nil {
		return err
	}
	if err := t.pause(ctx); err != nil {
		return err
	}
	return errLeft
}

// static has addresses, gateways and name servers typed; what is wrong is said, and asked
// for again.
func (t *terminal) static(ctx context.Context) (appliance.Link, error) {
	var link appliance.Link
	steps := []struct {
		prompt string
		take   func(words []string) error
	}{
		{"Address and prefix length, like 192.0.2.7/24; one of each family:", func(words []string) (err error) {
			link.Addresses, err = hostPrefixes(words)
			return err
		}},
		{"Gateway, or nothing:", func(words []string) (err error) {
			link.Routes, err = gateways(words, link.Addresses)
			return err
		}},
		{"Name servers, or nothing:", func(words []string) (err error) {
			link.Nameservers.Addresses, err = hosts(words, 4)
			return err
		}},
	}
	for _, s := range steps {
		for {
			text, err := t.ask(ctx, entry{prompt: s.prompt, limit: 200})
			if err != nil {
				return appliance.Link{}, err
			}
			fault := s.take(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' }))
			if fault == nil {
				break
			}
			if err := t.say("That does not work: " + fault.Error() + "."); err != nil {
				return appliance.Link{}, err
			}
		}
	}
	return link, nil
}

// hostPrefixes reads one or two addresses with prefix length, of different families.
func hostPrefixes(words []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, w := range words {
		p, err := netip.ParsePrefix(w)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%q is no address with a prefix length", w)
		case p.Bits() == 0 || !usable(p.Addr()):
			return nil, fmt.Errorf("%s is no address of a host", w)
		case p.Addr().Is4() && p.Bits() < 31 && (p.Addr() == p.Masked().Addr() || p.Addr() == broadcast(p)):
			return nil, fmt.Errorf("%s is the network's own, or its broadcast address", w)
		case len(list) > 0 && list[0].Addr().Is4() == p.Addr().Is4() || len(list) == 2:
			return nil, fmt.Errorf("more than one address of a family")
		}
		list = append(list, p)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("an address is needed")
	}
	return list, nil
}

func broadcast(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// usable reports whether a host can have the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// gateways makes default routes of at most one gateway of each family, which the card must
// reach.
func gateways(words []string, on []netip.Prefix) ([]appliance.Route, error) {
	list, err := hosts(words, 2)
	if err != nil {
		return nil, err
	}
	var routes []appliance.Route
	for _, g := range list {
		reached := g.Is6() && g.IsLinkLocalUnicast()
		for _, p := range on {
			reached = reached || p.Masked().Contains(g) && p.Addr() != g
		}
		if !reached {
			return nil, fmt.Errorf("%s is not in the card's own network", g)
		}
		if len(routes) > 0 && routes[0].Via.Is4() == g.Is4() {
			return nil, fmt.Errorf("more than one gateway of a family")
		}
		routes = append(routes, appliance.Route{To: "default", Via: g})
	}
	return routes, nil
}

// hosts reads at most limit addresses.
func hosts(words []string, limit int) ([]netip.Addr, error) {
	if len(words) > limit {
		return nil, fmt.Errorf("more than %d addresses", limit)
	}
	var list []netip.Addr
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil || !usable(a) {
			return nil, fmt.Errorf("%q is no address of a host", w)
		}
		list = append(list, a)
	}
	return list, nil
}

func addresses[T fmt.Stringer](list []T) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func describe(l appliance.Link) string {
	if l.DHCP4 {
		return "by DHCP and router advertisements"
	}
	text := strings.Join(addresses(l.Addresses), " ")
	for _, r := range l.Routes {
		text += ", gateway " + r.Via.String()
	}
	if len(l.Nameservers.Addresses) > 0 {
		text += ", name servers " + strings.Join(addresses(l.Nameservers.Addresses), " ")
	}
	return text
}
