package firewall

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestCheckRefuses breaks one thing at a time.
func TestCheckRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(*Ruleset)
		want   string
	}{
		"no table":               {func(r *Ruleset) { r.Table = "" }, "table"},
		"table name":             {func(r *Ruleset) { r.Table = "a b" }, "table"},
		"no tunnel":              {func(r *Ruleset) { r.Tunnel = "" }, "tunnel"},
		"loopback as tunnel":     {func(r *Ruleset) { r.Tunnel = "lo" }, "tunnel"},
		"tunnel name":            {func(r *Ruleset) { r.Tunnel = `lz0" accept` }, "tunnel"},
		"wildcard tunnel":        {func(r *Ruleset) { r.Tunnel = "lz*" }, "tunnel"},
		"tunnel name too long":   {func(r *Ruleset) { r.Tunnel = "abcdefghijklmnop" }, "tunnel"},
		"no listen port":         {func(r *Ruleset) { r.ListenPort = 0 }, "listen port"},
		"no freshness":           {func(r *Ruleset) { r.Freshness = 0 }, "freshness"},
		"endless freshness":      {func(r *Ruleset) { r.Freshness = 25 * time.Hour }, "freshness"},
		"odd freshness":          {func(r *Ruleset) { r.Freshness = time.Second + 1 }, "whole milliseconds"},
		"no quarantine life":     {func(r *Ruleset) { r.QuarantineLife = 0 }, "quarantine life"},
		"negative life":          {func(r *Ruleset) { r.QuarantineLife = -time.Hour }, "quarantine life"},
		"no quarantine pool":     {func(r *Ruleset) { r.Pools = r.Pools[1:] }, "one must be the quarantine pool"},
		"two quarantine pools":   {func(r *Ruleset) { r.Pools[1].Mark = 0 }, "mark 0 is another"},
		"mark twice":             {func(r *Ruleset) { r.Pools[2].Mark = 1 }, "mark 1 is another"},
		"name twice":             {func(r *Ruleset) { r.Pools[2].Name = "staff" }, "name of its own"},
		"no name":                {func(r *Ruleset) { r.Pools[2].Name = "" }, "name of its own"},
		"no prefix":              {func(r *Ruleset) { r.Pools[2].IPv4, r.Pools[2].IPv6 = netip.Prefix{}, netip.Prefix{} }, "want an IPv4 or an IPv6 prefix"},
		"prefixes swapped":       {func(r *Ruleset) { p := &r.Pools[2]; p.IPv4, p.IPv6 = p.IPv6, p.IPv4 }, "is no IPv4 prefix"},
		"mapped prefix":          {func(r *Ruleset) { r.Pools[2].IPv6 = pfx("::ffff:10.0.0.0/104") }, "is no IPv6 prefix"},
		"host bits":              {func(r *Ruleset) { r.Pools[2].IPv4 = pfx("10.97.0.1/24") }, "want 10.97.0.0/24"},
		"overlap":                {func(r *Ruleset) { r.Pools[2].IPv4 = pfx("10.98.1.0/24") }, "overlaps"},
		"everything as a pool":   {func(r *Ruleset) { r.Pools[2].IPv4 = pfx("0.0.0.0/0") }, "not for hosts"},
		"last addresses":         {func(r *Ruleset) { r.Pools[2].IPv4 = pfx("255.255.255.0/24") }, "not for hosts"},
		"multicast pool":         {func(r *Ruleset) { r.Pools[2].IPv6 = pfx("ff02::/64") }, "not for hosts"},
		"reach without target":   {func(r *Ruleset) { r.Pools[0].Reach[0] = Reach{} }, "without host bits"},
		"reach, any protocol":    {func(r *Ruleset) { r.Pools[0].Reach[0].Protocol = "" }, "want a protocol"},
		"reach, no port":         {func(r *Ruleset) { r.Pools[0].Reach[0].From, r.Pools[0].Reach[0].Up = 0, 0 }, "want a port"},
		"reach, port without":    {func(r *Ruleset) { r.Pools[1].Reach = []Reach{{To: pfx("192.0.2.0/24"), From: 5}} }, "ports need tcp or udp"},
		"reach, ports reversed":  {func(r *Ruleset) { r.Pools[0].Reach[0].Up = 1 }, "ports 443 to 1"},
		"reach, last port only":  {func(r *Ruleset) { r.Pools[2].Reach[4].Up = 9 }, "ports 0 to 9"},
		"reach, protocol":        {func(r *Ruleset) { r.Pools[0].Reach[0].Protocol = "TCP" }, "unknown protocol"},
		"reach into a pool":      {func(r *Ruleset) { r.Pools[0].Reach[0].To = pfx("10.98.0.9/32") }, "overlaps pool prefix"},
		"quarantine reaches all": {func(r *Ruleset) { r.Pools[0].Reach[0].To = pfx("0.0.0.0/0") }, "overlaps pool prefix"},
		"reach, host bits":       {func(r *Ruleset) { r.Pools[2].Reach[0].To = pfx("198.51.100.1/24") }, "without host bits"},
		"gateway in no pool":     {func(r *Ruleset) { r.Gateway[0] = addr("192.0.2.1") }, "in no pool"},
		"gateway twice":          {func(r *Ruleset) { r.Gateway[0] = r.Gateway[1] }, "given twice"},
		"gateway mapped":         {func(r *Ruleset) { r.Gateway[0] = addr("::ffff:10.99.0.1") }, "plain address"},
		"service protocol":       {func(r *Ruleset) { r.Inside[0].Protocol = "" }, "inside service"},
		"service port":           {func(r *Ruleset) { r.Outside[0].Port = 0 }, "outside service"},
		"ping with a port":       {func(r *Ruleset) { r.Out[2].Port = 7 }, "out service"},
		"service from":           {func(r *Ruleset) { r.Outside[1].From[0] = pfx("203.0.113.9/24") }, "without host bits"},
		"service from nowhere":   {func(r *Ruleset) { r.Outside[1].From[0] = netip.Prefix{} }, "without host bits"},
	} {
		r := fullRuleset()
		c.breaks(&r)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCheckReportsAll(t *testing.T) {
	err := Ruleset{}.Check()
	if err == nil {
		t.Fatal("the zero ruleset is fine")
	}
	for _, want := range []string{"table", "tunnel", "listen port", "freshness", "quarantine life"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %s in %v", want, err)
		}
	}
}
