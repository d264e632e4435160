package claim

import (
	"crypto/tls"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"lazaret/appliance"
)

// visitor is a browser without scripts, as far as these pages need one.
type visitor struct {
	t      *testing.T
	client *http.Client
	base   string
	raw    string // the last page as it came
}

func newVisitor(t *testing.T, m *machine) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &visitor{t: t, client: &http.Client{Jar: jar, Transport: tr}, base: "https://" + m.address}
}

func (v *visitor) get(path string) (int, string) {
	v.t.Helper()
	return v.read(v.client.Get(v.base + path))
}

func (v *visitor) post(path string, values url.Values) (int, string) {
	v.t.Helper()
	return v.read(v.client.PostForm(v.base+path, values))
}

func (v *visitor) read(resp *http.Response, err error) (int, string) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	v.raw = string(text)
	return resp.StatusCode, html.UnescapeString(v.raw)
}

// filled is a form that is right.
func filled(code string) url.Values {
	return url.Values{"code": {code}, "clock": {"on"}, "name": {"gateway"}, "organization": {"Example"}, "administrator": {"administrator"}, "enroll_names": {"gw.example.com"},
		"management": {"192.0.2.10 tcp/443\r\nmdm.example.com  tcp/443"}, "admin_networks": {"192.0.2.0/24, 198.51.100.7"}, "mode": {"leave"}}
}

// TestPageTellsAllFaults: at once, beside their fields, and nothing that was typed is lost.
func TestPageTellsAllFaults(t *testing.T) {
	m := newMachine(t, nil)
	v := newVisitor(t, m)
	status, text := v.get("/")
	if status != http.StatusOK || !strings.Contains(text, m.print) || !strings.Contains(text, "eth0, 02:00:00:00:00:01") {
		t.Errorf("%d %s", status, text)
	}
	typed := url.Values{"code": {"ABC"}, "name": {"Not A Name"}, "enroll_names": {"bad name!"}, "management": {`<script>"&`}, "admin_networks": {"everywhere"},
		"mode": {"static"}, "card": {"eth9"}, "vlan": {"5000"}, "address": {"192.0.2.20"}, "gateway": {"nowhere"}, "dns": {"x"}, "proxy": {"gopher://x"}, "window": {"never"}}
	status, text = v.post("/", typed)
	if status != http.StatusUnprocessableEntity {
		t.Errorf("status %d", status)
	}
	for name, value := range typed {
		if name != "mode" && !strings.Contains(text, `id="`+name+`-fault"`) {
			t.Errorf("%s: no fault beside it", name)
		}
		if name != "card" && !strings.Contains(text, value[0]) {
			t.Errorf("%s: %q was lost", name, value[0])
		}
	}
	if strings.Contains(v.raw, "<script") {
		t.Error("a script got into the page")
	}
	if made, _ := m.count(); made != 0 {
		t.Error("something was made")
	}
}

// TestPage: from the form to a credential, step by step; what is done twice is done once.
func TestPage(t *testing.T) {
	m := newMachine(t, nil)
	m.block = make(chan struct{})
	v := newVisitor(t, m)
	if status, text := v.post("/", filled(DrawCode().String())); status != http.StatusUnprocessableEntity || !strings.Contains(text, "not the code on the machine's screen") || !strings.Contains(text, "mdm.example.com") {
		t.Errorf("wrong code: %d", status)
	}
	status, text := v.post("/", filled(m.code.String()))
	if status != http.StatusOK || !strings.Contains(text, "Making the gateway") {
		t.Fatalf("%d %s", status, text)
	}
	again := newVisitor(t, m) // another browser, with the same code and form: the answer got lost
	if status, text := again.post("/", filled(strings.ToLower(m.code.String()))); status != http.StatusOK || !strings.Contains(text, "Making the gateway") {
		t.Errorf("the same once more: %d %s", status, text)
	}
	for _, path := range []string{"/result", "/progress", "/"} {
		if _, text := v.get(path); !strings.Contains(text, "Making the gateway") {
			t.Errorf("%s is ahead of its time", path)
		}
	}
	stranger := newVisitor(t, m)
	for _, path := range []string{"/credential", "/start"} {
		if _, text := stranger.post(path, nil); strings.Contains(text, "PRIVATE KEY") || !strings.Contains(text, formTitle) {
			t.Errorf("%s gives a stranger %s", path, text)
		}
	}
	close(m.block)
	for text = ""; !strings.Contains(text, resultTitle) && t.Context().Err() == nil; {
		_, text = v.get("/progress")
	}
	if !strings.Contains(text, "lzt_secret") {
		t.Error("the token is not shown")
	}
	if status, text := v.post("/start", nil); status != http.StatusConflict || !strings.Contains(text, "Download the credential first") {
		t.Errorf("started too early: %d", status)
	}
	_, file := v.post("/credential", nil)
	_, other := again.post("/credential", nil)
	c, err := ParseCredential([]byte(file))
	if err != nil || c.Server != "https://gw.example.com:8443" || file != other {
		t.Errorf("the file is for %q, %v; the same for both: %v", c.Server, err, file == other)
	}
	different := filled(m.code.String())
	different.Set("organization", "Another")
	late := newVisitor(t, m)
	_, text = late.post("/", different)
	for strings.Contains(text, "Making the gateway") && t.Context().Err() == nil {
		_, text = late.get("/progress")
	}
	if !strings.Contains(text, "claimed already") {
		t.Errorf("another claim with the code: %s", text)
	}
	if status, text := v.post("/start", nil); status != http.StatusOK || !strings.Contains(text, "The gateway starts") {
		t.Errorf("start: %d %s", status, text)
	}
	if keeper, door := m.end(); keeper != nil || door != nil {
		t.Errorf("keeper ended with %v, door with %v", keeper, door)
	}
	if made, kept := m.count(); made != 1 || kept != 1 {
		t.Errorf("made %d, kept %d", made, kept)
	}
	s := m.made[0].Setup
	if len(s.Management) != 2 || s.Management[1] != "mdm.example.com tcp/443" || len(s.AdminNetworks) != 2 || s.AdminNetworks[1] != netip.MustParsePrefix("198.51.100.7/32") || s.Network != nil {
		t.Errorf("asked for %+v", s)
	}
	if len(m.made[0].APINames) != 1 || m.made[0].APINames[0] != "127.0.0.1" {
		t.Errorf("the API's names are %v", m.made[0].APINames)
	}
}

// TestAnswerKeepsItsPlace: however many others claim, the browser whose gateway was made
// still gets its credential.
func TestAnswerKeepsItsPlace(t *testing.T) {
	answered := &visit{over: true}
	visits := []*visit{answered}
	for i := range 3 * maxVisits {
		v := &visit{}
		if i%2 == 0 {
			v.over, v.refusal = true, &Refusal{Kind: Claimed}
		}
		visits = append(spared(visits), v)
		if len(visits) > maxVisits || visits[0] != answered || visits[len(visits)-1] != v {
			t.Fatalf("after %d others: %d visits", i+1, len(visits))
		}
	}
}

// TestPageRefused: what only making it finds out brings the form back.
func TestPageRefused(t *testing.T) {
	m := newMachine(t, nil)
	m.fail = &Refusal{Kind: Invalid, What: "no", Faults: []Fault{{Field: "name", What: "is somebody's dog"}}}
	v := newVisitor(t, m)
	_, text := v.post("/", filled(m.code.String()))
	for strings.Contains(text, "Making the gateway") && t.Context().Err() == nil {
		_, text = v.get("/progress")
	}
	if !strings.Contains(text, "is somebody's dog") || !strings.Contains(text, `id="name-fault"`) || !strings.Contains(text, "mdm.example.com") {
		t.Errorf("%s", text)
	}
}

// TestPageFromElsewhere: another site's form is refused, and no script or frame is allowed.
func TestPageFromElsewhere(t *testing.T) {
	m := newMachine(t, nil)
	v := newVisitor(t, m)
	for _, path := range []string{"/", "/credential", "/start"} {
		req, err := http.NewRequest(http.MethodPost, v.base+path, strings.NewReader(filled(m.code.String()).Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		if status, _ := v.read(v.client.Do(req)); status != http.StatusForbidden {
			t.Errorf("%s from another site: %d", path, status)
		}
	}
	resp, err := v.client.Get(v.base + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	csp := resp.Header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || !strings.Contains(csp, "frame-ancestors 'none'") || strings.Contains(csp, "unsafe") || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
	if resp, err := v.client.Post(v.base+"/", "application/x-www-form-urlencoded", strings.NewReader("code="+strings.Repeat("A", 2*maxForm))); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a form of %d bytes: %d", 2*maxForm, resp.StatusCode)
		}
	}
}

// TestFormNetworks: what the form says of the network is what netplan would write.
func TestFormNetworks(t *testing.T) {
	about := About{Links: []Card{{Name: "eth0", MAC: "02:00:00:00:00:01"}, {Name: "eth1", MAC: "02:00:00:00:00:02"}}}
	read := func(change url.Values) (appliance.Setup, *form) {
		t.Helper()
		values := filled(DrawCode().String())
		for k, v := range change {
			values[k] = v
		}
		f := newForm(about, Clock{Synchronized: true}, netip.MustParseAddr("192.0.2.9"))
		f.take(values)
		_, s := f.setup(nil)
		return s, f
	}
	s, f := read(url.Values{"mode": {"static"}, "card": {"eth1"}, "address": {"192.0.2.20/24\r\n2001:db8::20/64"}, "gateway": {"192.0.2.1 2001:db8::1"}, "dns": {"192.0.2.53"}})
	if f.bad() {
		t.Fatalf("%v %v", f.Faults, f.Faulty()[0])
	}
	e := s.Network.Ethernets["eth1"]
	if e.Match.MAC != "02:00:00:00:00:02" || e.DHCP4 || e.AcceptRA || len(e.Addresses) != 2 || len(e.Routes) != 2 || e.Routes[1].To != "default" || len(e.Nameservers.Addresses) != 1 {
		t.Errorf("%+v", e)
	}
	s, f = read(url.Values{"mode": {"dhcp"}, "card": {"eth0"}, "vlan": {"12"}})
	if f.bad() {
		t.Fatalf("%v %v", f.Faults, f.Faulty()[0])
	}
	if v := s.Network.VLANs["vlan12"]; v.ID != 12 || v.On != "eth0" || !v.DHCP4 || !v.AcceptRA || s.Network.Ethernets["eth0"].DHCP4 {
		t.Errorf("%+v", s.Network)
	}
	if _, f := read(url.Values{"mode": {"static"}, "card": {"eth0"}}); !f.bad() {
		t.Error("a fixed address without one is taken")
	}
	if got := f.entry("admin_networks"); got == nil {
		t.Error("no such entry")
	}
	def := newForm(About{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24"), netip.MustParsePrefix("fe80::1/64")}}, Clock{}, netip.MustParseAddr("192.0.2.9"))
	if got := def.entry("admin_networks").Value; got != "10.0.2.0/24\n192.0.2.9/32" {
		t.Errorf("suggested %q", got)
	}
}

// FuzzForm: whatever is typed, reading it ends, and what has no fault passes the set-up's own check.
func FuzzForm(f *testing.F) {
	f.Add(filled("ABC-DEF").Encode())
	f.Add(url.Values{"mode": {"static"}, "vlan": {"7"}, "address": {"192.0.2.20/24"}, "gateway": {"fe80::1%eth0"}}.Encode())
	f.Fuzz(func(t *testing.T, text string) {
		values, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		x := newForm(About{}, Clock{}, netip.Addr{})
		x.take(values)
		if _, s := x.setup(nil); !x.bad() && len(Check(s)) > 0 {
			t.Error("faults went unseen")
		}
	})
}
