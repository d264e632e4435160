package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

func TestReportsGoInParts(t *testing.T) {
	var text strings.Builder
	for n := range partReports + 7 {
		fmt.Fprintf(&text, "{\"device\":\"d%d\",\"verdict\":\"compliant\"}\n", n)
	}
	text.WriteString(`{"device":"last","verdict":"noncompliant","validity":"2h","source":"scan"}`)
	var sizes []int
	var all []api.ReportRequest
	send := func(part []api.ReportRequest) error {
		sizes, all = append(sizes, len(part)), append(all, part...)
		return nil
	}
	if err := parts(strings.NewReader(text.String()), api.ReportRequest{Source: "mdm", Validity: "1h"}, send); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(sizes) != fmt.Sprint([]int{partReports, 8}) {
		t.Errorf("parts of %v", sizes)
	}
	if first, last := all[0], all[len(all)-1]; first.Source != "mdm" || first.Validity != "1h" || last.Source != "scan" || last.Validity != "2h" {
		t.Errorf("first %+v, last %+v", first, last)
	}

	sizes = nil
	big := fmt.Sprintf(`{"device":"d","verdict":"compliant","detail":%q}`, strings.Repeat("x", partBytes/2))
	if err := parts(strings.NewReader(big+big+big), api.ReportRequest{}, send); err != nil || fmt.Sprint(sizes) != "[2 1]" {
		t.Errorf("big ones went in parts of %v, %v", sizes, err)
	}
	if err := parts(strings.NewReader("\n \n"), api.ReportRequest{}, func([]api.ReportRequest) error { return errors.New("sent") }); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	for text, want := range map[string]string{
		`{"device":"d"} {"devise":"e"}`: "report 2", `[]`: "report 1", `{"device":"d"`: "report 1",
	} {
		sizes = nil
		if err := parts(strings.NewReader(text), api.ReportRequest{}, send); err == nil || !strings.Contains(err.Error(), want) || len(sizes) > 0 {
			t.Errorf("%s: %v, sent %v; want an error about %s", text, err, sizes, want)
		}
	}
	refused := errors.New("refused")
	if err := parts(strings.NewReader(`{"device":"d"}`), api.ReportRequest{}, func([]api.ReportRequest) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a failed request: %v", err)
	}
}
