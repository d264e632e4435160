package poll

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDoors: a webhook needs the secret, one way or another, and makes a question, not a fact.
func TestDoors(t *testing.T) {
	var d Doors
	var hinted []string
	read := func(body []byte) ([]string, error) {
		if string(body) == "bad" {
			return nil, errors.New("bad")
		}
		return strings.Fields(string(body)), nil
	}
	const secret = "0123456789abcdefghij"
	d.Open("mdm", secret, read, func(ids ...string) { hinted = append(hinted, ids...) })
	mux := http.NewServeMux()
	mux.Handle("POST /sources/v1/fleet/{name}/{secret}", &d)
	mux.Handle("POST /sources/v1/jamf/{name}", &d)
	ask := func(path, body string, change func(*http.Request)) int {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		if change != nil {
			change(r)
		}
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w.Code
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	basic := func(password string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("jamf", password) }
	}
	for _, c := range []struct {
		path, body string
		change     func(*http.Request)
		want       int
	}{
		{"/sources/v1/fleet/mdm/" + secret, "1 2", nil, 204},
		{"/sources/v1/jamf/mdm", "3", basic(secret), 204},
		{"/sources/v1/jamf/mdm", "4", header("X-Webhook-Secret", secret), 204},
		{"/sources/v1/fleet/mdm/" + secret[1:], "5", nil, 404},
		{"/sources/v1/fleet/mdm/wrong", "5", header("X-Webhook-Secret", secret), 404},
		{"/sources/v1/fleet/other/" + secret, "5", nil, 404},
		{"/sources/v1/jamf/mdm", "5", nil, 404},
		{"/sources/v1/jamf/mdm", "5", basic(""), 404},
		{"/sources/v1/jamf/mdm", "5", basic("guess"), 404},
		{"/sources/v1/jamf/mdm", "bad", basic(secret), 400},
		{"/sources/v1/jamf/mdm", strings.Repeat("x", maxHook+1), basic(secret), 413},
	} {
		if got := ask(c.path, c.body, c.change); got != c.want {
			t.Errorf("%s with %.10q: %d, want %d", c.path, c.body, got, c.want)
		}
	}
	if !slices.Equal(hinted, []string{"1", "2", "3", "4"}) {
		t.Errorf("hinted %v", hinted)
	}
	d.Shut("mdm")
	if got := ask("/sources/v1/fleet/mdm/"+secret, "6", nil); got != 404 {
		t.Errorf("a closed door answers %d", got)
	}
}

// TestObject: every fault names its field, and the first stands.
func TestObject(t *testing.T) {
	const text = `{"text":"a","number":5,"yes":true,"null":null,"time":"2026-11-22T12:00:00.5+01:00","never":"0001-01-01T00:00:00Z","in":{"list":[{"a":1},{"a":"x"}]},"odd":[1]}`
	read := func() *Object {
		o, err := ReadObject([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := read()
	if o.Text("text") != "a" || o.Int("number") != 5 || !o.Bool("yes") || o.ID("number") != "5" || o.ID("text") != "a" || !o.NullTime("null").IsZero() || !o.Time("never").IsZero() ||
		!o.Time("time").Equal(time.Date(2026, 11, 22, 11, 0, 0, 5e8, time.UTC)) || o.Plain("odd") != "" || o.Has("null") || o.Within("nothing").Within("more").Plain("x") != "" || o.Err() != nil {
		t.Errorf("read %+v, %v", o, o.Err())
	}
	for want, get := range map[string]func(*Object){
		`"missing" is missing`:      func(o *Object) { o.Text("missing") },
		`"null" is missing`:         func(o *Object) { o.Bool("null") },
		`"number" is no text`:       func(o *Object) { o.Text("number") },
		`"text" is no whole number`: func(o *Object) { o.Int("text") },
		`"text" is no time`:         func(o *Object) { o.Time("text") },
		`"missing" is missing ago`:  func(o *Object) { o.NullTime("missing") },
		`"text" has the unheard-of`: func(o *Object) { o.Enum("text", "b", "c") },
		`"odd" is no text or whole`: func(o *Object) { o.ID("odd") },
		`"in.list[1].a" is no whole`: func(o *Object) {
			for _, in := range o.Object("in").Objects("list") {
				in.Int("a")
			}
		},
		`"odd" is no list of objects`: func(o *Object) { o.Objects("odd") },
		`"odd" holds something`:       func(o *Object) { o.Page("odd") },
		`"text" is no list`:           func(o *Object) { o.Page("text") },
	} {
		o := read()
		get(o)
		want = strings.TrimSuffix(want, " ago")
		if o.Err() == nil || !strings.Contains(o.Err().Error(), want) {
			t.Errorf("%s: %v", want, o.Err())
		}
		first := o.Err()
		if o.Text("missing too"); o.Err() != first || o.Text("text") != "" {
			t.Errorf("%s: the first fault does not stand", want)
		}
	}
	for _, bad := range []string{``, `[]`, `null`, `"x"`, `{"a":1}{}`, `{"a":`} {
		if _, err := ReadObject([]byte(bad)); err == nil {
			t.Errorf("took %s", bad)
		}
	}
}

func TestFactsFitIntoReports(t *testing.T) {
	facts := map[string]string{}
	Put(facts, "a", " x ")
	Put(facts, "b", "")
	Put(facts, strings.Repeat("n", 65), "x")
	Put(facts, "c", strings.Repeat("v", 257))
	Put(facts, "d", "\xff\xfeok")
	if len(facts) != 2 || facts["a"] != "x" || facts["d"] != "ok" {
		t.Errorf("facts are %v", facts)
	}
	for n := range 100 {
		Put(facts, "n"+strings.Repeat("x", n%50)+string(rune('a'+n/50)), "v")
	}
	if len(facts) > 64 {
		t.Errorf("%d facts", len(facts))
	}
	for text, want := range map[string]string{"macOS 15.1.1": "15.1.1", "Windows 11 Enterprise 22H2": "", "Microsoft Windows 11 Pro 10.0.26100.2314": "10.0.26100.2314", "Ubuntu 24.04.1 LTS": "24.04.1", "": ""} {
		facts := map[string]string{}
		if PutVersion(facts, text); facts["os.version"] != want {
			t.Errorf("%q: version %q", text, facts["os.version"])
		}
	}
}

func FuzzReadToken(f *testing.F) {
	f.Add([]byte(`{"access_token":"x","token_type":"Bearer","expires_in":3599}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		token, life, err := readToken(body)
		if err == nil && (token == "" || strings.ContainsAny(token, "\r\n \x00") || life <= 0 || life > longToken) {
			t.Errorf("token %q for %s", token, life)
		}
	})
}
