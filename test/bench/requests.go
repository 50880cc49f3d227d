package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

// idleTime is how long the driver is watched doing nothing.
const idleTime = 20 * time.Second

// window is [from, to).
type window struct{ from, to time.Time }

// accountPrefix begins the names of the driver's service accounts.
const accountPrefix = "system:serviceaccount:" + local.Namespace + ":juicefs-"

// isLease is true for the heartbeat of the controllers, which goes on all the
// time and has nothing to do with volumes.
func isLease(event devcluster.AuditEvent) bool {
	return strings.HasPrefix(event.URI, "/apis/coordination.k8s.io/")
}

// requestsIn are the driver's requests in a window, leases left out.
func requestsIn(events []devcluster.AuditEvent, w window) []devcluster.AuditEvent {
	var found []devcluster.AuditEvent
	for _, event := range events {
		inside := !event.Received.Before(w.from) && event.Received.Before(w.to)
		if inside && strings.HasPrefix(event.User, accountPrefix) && !isLease(event) {
			found = append(found, event)
		}
	}
	return found
}

// addRequests counts the driver's requests to the API server in windows in
// which a thing was done n times together, and says which they were.
func (b *bench) addRequests(name string, since time.Time, windows []window, n int) error {
	events, err := b.cluster.AuditEvents(since)
	if err != nil {
		return err
	}
	total, kinds := 0, make(map[string]int)
	for _, w := range windows {
		for _, event := range requestsIn(events, w) {
			kinds[describe(event)]++
			total++
		}
	}
	b.add(name+".api_requests", float64(total)/float64(n), "requests", n)
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		b.say("requests of %s: %.2f %s", name, float64(kinds[kind])/float64(n), kind)
	}
	return nil
}

// describe names a request without the names of single objects.
func describe(event devcluster.AuditEvent) string {
	path, query, _ := strings.Cut(event.URI, "?")
	account := strings.TrimPrefix(event.User, accountPrefix)
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, part := range parts {
		if i > 0 && parts[i-1] == "namespaces" || strings.Contains(part, "bench-") || strings.HasPrefix(part, "juicefs-") {
			parts[i] = "*"
		}
	}
	if strings.Contains(query, "watch=true") {
		return fmt.Sprintf("%s watch %s", account, strings.Join(parts, "/"))
	}
	return fmt.Sprintf("%s %s %s %d", account, event.Verb, strings.Join(parts, "/"), event.Code)
}

// idleRequests counts what the driver asks while nothing happens.
func (b *bench) idleRequests(ctx context.Context) error {
	w := window{from: time.Now()}
	if err := wait(ctx, idleTime); err != nil {
		return err
	}
	w.to = time.Now()
	events, err := b.cluster.AuditEvents(w.from)
	if err != nil {
		return err
	}
	leases := 0
	for _, event := range events {
		if event.Received.Before(w.to) && strings.HasPrefix(event.User, accountPrefix) && isLease(event) {
			leases++
		}
	}
	minutes := w.to.Sub(w.from).Minutes()
	b.add("idle.api_requests", float64(len(requestsIn(events, w)))/minutes, "requests/min", 1)
	b.add("idle.lease_requests", float64(leases)/minutes, "requests/min", 1)
	return nil
}
