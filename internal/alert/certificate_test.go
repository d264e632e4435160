package alert

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestServerCertificateAlerts asks on both sides of where each begins to hold (G8).
func TestServerCertificateAlerts(t *testing.T) {
	brought := func(left time.Duration) *CertificateHealth {
		return &CertificateHealth{Issuer: "CN=House", NotBefore: noon.Add(left - 90*day), NotAfter: noon.Add(left)}
	}
	acme := func(life, left time.Duration, failures int) *CertificateHealth {
		return &CertificateHealth{Issuer: "CN=House", NotBefore: noon.Add(left - life), NotAfter: noon.Add(left), ACME: "https://acme.example.com/directory", Failures: failures, Problem: "refused"}
	}
	for what, c := range map[string]struct {
		of   *CertificateHealth
		want string
	}{
		"none":                                  {&CertificateHealth{}, ""},
		"31 days":                               {brought(30*day + time.Minute), ""},
		"30 days":                               {brought(30 * day), "server-certificate/ends warning"},
		"more than a week":                      {brought(7*day + time.Minute), "server-certificate/ends warning"},
		"a week":                                {brought(7 * day), "server-certificate/ends critical"},
		"over":                                  {brought(0), "server-certificate/ends critical"},
		"by ACME, when it is renewed":           {acme(90*day, 30*day, 0), ""},
		"by ACME, renewal is late":              {acme(90*day, 22*day, 1), "server-certificate/ends warning"},
		"by ACME, a week":                       {acme(90*day, 7*day, 2), "server-certificate/ends critical"},
		"of six days, when it is renewed":       {acme(6*day, 2*day, 0), ""},
		"of six days, renewal is late":          {acme(6*day, 36*time.Hour, 1), "server-certificate/ends warning"},
		"ACME failed twice":                     {acme(90*day, 60*day, 2), ""},
		"ACME failed three times":               {acme(90*day, 60*day, 3), "server-certificate/renewal warning"},
		"ACME never had any":                    {&CertificateHealth{ACME: "https://acme.example.com/directory", Failures: 3, Problem: "refused"}, "server-certificate/renewal warning"},
		"a name of the configuration is not in": {&CertificateHealth{NotAfter: noon.Add(60 * day), Uncovered: []string{"gw.example.com"}}, "server-certificate/names warning"},
		"what is kept cannot be read":           {&CertificateHealth{Broken: "sealed with another key"}, "server-certificate/unreadable critical"},
	} {
		looked, found := Look(View{Now: noon, Certificate: c.of})
		var got []string
		for _, f := range found {
			got = append(got, f.ID()+" "+string(f.Severity))
			if f.Text == "" || f.Remedy == "" {
				t.Errorf("%s: %+v says nothing", what, f)
			}
		}
		if !slices.Equal(looked, []Kind{ServerCertificate}) || strings.Join(got, ",") != c.want {
			t.Errorf("%s: looked for %v, found %v, want %s", what, looked, got, c.want)
		}
	}
	_, found := Look(View{Now: noon, Certificate: brought(-day)})
	if len(found) != 1 || !strings.Contains(found[0].Text, "ended on") || !strings.Contains(found[0].Text, "the gateway's own is shown") {
		t.Errorf("%+v", found)
	}
}
