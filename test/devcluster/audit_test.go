package devcluster

import (
	"strings"
	"testing"
	"time"
)

func TestReadAudit(t *testing.T) {
	const log = `{"verb":"get","user":{"username":"a"},"requestReceivedTimestamp":"2026-01-02T03:04:05.000001Z"}
{"kind":"Event","verb":"list","requestURI":"/api/v1/pods?limit=5",` +
		`"user":{"username":"system:serviceaccount:kube-system:b"},"sourceIPs":["10.77.0.11"],"userAgent":"x/1",` +
		`"responseStatus":{"code":403},"requestReceivedTimestamp":"2026-01-02T03:04:06.000001Z"}
{"kind":"Event","verb":"pat`
	since := time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC)
	events, err := readAudit(strings.NewReader(log), since)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != 1 {
		t.Fatalf("got %d events, want the second: %+v", len(events), events)
	}
	got := events[0]
	if got.User != "system:serviceaccount:kube-system:b" || got.Verb != "list" || got.URI != "/api/v1/pods?limit=5" ||
		got.Code != 403 || got.UserAgent != "x/1" || len(got.SourceIPs) != 1 {
		t.Errorf("event is %+v", got)
	}
	if _, err := readAudit(strings.NewReader("nonsense\n"), since); err == nil {
		t.Error("nonsense was accepted")
	}
}
