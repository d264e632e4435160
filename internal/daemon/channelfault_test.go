package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"lazaret/appliance/update"
	"lazaret/internal/console"
)

// TestChannelFaultIsTold: whoever has the channel asked learns which channel does not answer,
// why, and what to do, whatever it is that goes wrong; and no secret of a URL.
func TestChannelFaultIsTold(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "https://" + nobody.Addr().String() + "/stable"
	if err := nobody.Close(); err != nil {
		t.Fatal(err)
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	away := httptest.NewTLSServer(http.RedirectHandler("http://user:hunter2@elsewhere.invalid/?token=hunter2", http.StatusFound))
	defer away.Close()
	for name, c := range map[string]struct {
		change       func(l *channelLab)
		says, remedy string
	}{
		"name":       {func(l *channelLab) { l.host.settings.Channel = "https://updates.invalid/stable" }, "lookup updates.invalid", "lazaretctl machine"},
		"connection": {func(l *channelLab) { l.host.settings.Channel = closed }, "no connection: ", "firewall.out"},
		"TLS":        {func(l *channelLab) { l.http = channelClient(nil) }, "not believed: ", "certificate"},
		"no TLS": {func(l *channelLab) {
			l.host.settings.Channel = strings.Replace(plain.URL, "http:", "https:", 1) + "/stable"
		}, "https://127.0.0.1", ""},
		"status":    {func(l *channelLab) { l.host.settings.Channel += "/mistyped" }, "/stable/mistyped: it answers 404 Not Found", "holds " + update.ChannelFile},
		"signature": {func(l *channelLab) { l.list[40] ^= 1 }, "/stable: opening the channel", "signed"},
		"led away":  {func(l *channelLab) { l.host.settings.Channel = away.URL + "/stable" }, "points somewhere", ""},
		"with secrets": {func(l *channelLab) {
			l.host.settings.Channel = "https://user:hunter2@updates.invalid/stable?token=hunter2"
		}, "https://updates.invalid/stable: ", ""},
	} {
		l := newChannelLab(t)
		c.change(l)
		deaf := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") }}
		l.http.Transport.(*http.Transport).DialContext = (&net.Dialer{Resolver: deaf}).DialContext
		err := machineDoor{watch: l.channelWatch}.Check(t.Context())
		fault, ok := errors.AsType[*console.UpstreamFault](err)
		if !ok || !strings.HasPrefix(fault.What, "the update channel https://") || !strings.Contains(fault.What, c.says) || fault.Remedy == "" || !strings.Contains(fault.Remedy, c.remedy) {
			t.Errorf("%s: %#v", name, err)
		}
		if strings.Contains(err.Error()+l.host.is.Problem, "hunter2") {
			t.Errorf("%s: tells a secret: %v; %s", name, err, l.host.is.Problem)
		}
	}
}
