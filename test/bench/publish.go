package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const nodeApp = "juicefs-csi-node"

// floor is what a pod without a volume takes.
func (b *bench) floor(ctx context.Context) error {
	b.say("starting %d pods without a volume", b.counts.floor)
	var starts []time.Duration
	for i := range b.counts.floor {
		name := fmt.Sprintf("floor-%d", i)
		created, err := b.startApp(ctx, name, "", "stamp")
		if err != nil {
			return err
		}
		began, err := b.stamp(ctx, name)
		if err != nil {
			return err
		}
		starts = append(starts, began.Sub(created))
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
	b.addDurations("floor.start", starts, 50, 95, 99)
	return b.deleteApps(ctx)
}

// series are the publishes of one kind.
type series struct {
	starts, publishes []time.Duration
	windows           []window
}

// publish starts a pod with a claim. The window of its requests is open until
// the caller closes it.
func (b *bench) publish(ctx context.Context, s *series, name, claim string) error {
	before, err := b.published(ctx)
	if err != nil {
		return err
	}
	created, err := b.startApp(ctx, name, claim, "stamp")
	if err != nil {
		return err
	}
	began, err := b.stamp(ctx, name)
	if err != nil {
		return err
	}
	after, err := b.published(ctx)
	if err != nil {
		return err
	}
	if calls := after.calls - before.calls; calls != 1 {
		return fmt.Errorf("kubelet published the volume of pod %s %d times", name, calls)
	}
	s.starts = append(s.starts, began.Sub(created))
	s.publishes = append(s.publishes, time.Duration((after.seconds-before.seconds)*float64(time.Second)))
	// Requests that follow the start belong to the publish too.
	if err := wait(ctx, pause); err != nil {
		return err
	}
	s.windows = append(s.windows, window{created, time.Now()})
	return nil
}

func (b *bench) addSeries(name string, s series) {
	b.addDurations(name+".start", s.starts, 50, 95, 99)
	b.addDurations(name+".node_publish", s.publishes, 50, 95, 99)
}

// coldAndMemory publishes volumes that are not mounted, one after the other,
// and lets them stay, so that the memory can be looked at with all of them.
func (b *bench) coldAndMemory(ctx context.Context) error {
	// The first mount formats the file system and is not counted.
	if err := b.firstMount(ctx); err != nil {
		return err
	}
	if err := b.memory(ctx, 0); err != nil {
		return err
	}
	b.say("publishing %d volumes that are not mounted", b.counts.cold)
	var claims []string
	for i := range b.counts.cold {
		claims = append(claims, fmt.Sprintf("cold-%d", i))
	}
	if err := b.volumes(ctx, claims...); err != nil {
		return err
	}
	since := time.Now()
	var cold series
	for _, claim := range claims {
		if err := b.publish(ctx, &cold, claim, claim); err != nil {
			return err
		}
	}
	b.addSeries("cold", cold)
	if err := b.addRequests("cold", since, cold.windows, len(cold.windows)); err != nil {
		return err
	}
	if err := b.memory(ctx, b.counts.cold); err != nil {
		return err
	}
	if err := b.idleRequests(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := b.deleteApps(ctx); err != nil {
		return err
	}
	b.add("cold.all_deleted", milliseconds(time.Since(began)), "ms", 1)
	return nil
}

func (b *bench) firstMount(ctx context.Context) error {
	if err := b.volumes(ctx, "first"); err != nil {
		return err
	}
	if _, err := b.startApp(ctx, "first", "first", "stamp"); err != nil {
		return err
	}
	return b.deleteApps(ctx)
}

// warm publishes a volume again and again that another pod holds mounted.
func (b *bench) warm(ctx context.Context) error {
	b.say("publishing a mounted volume %d times", b.counts.warm)
	if _, err := b.startApp(ctx, "holder", "first", "stamp"); err != nil {
		return err
	}
	if err := wait(ctx, settling); err != nil {
		return err
	}
	since := time.Now()
	var warm series
	for i := range b.counts.warm {
		if err := b.publish(ctx, &warm, fmt.Sprintf("warm-%d", i), "first"); err != nil {
			return err
		}
	}
	b.addSeries("warm", warm)
	if err := b.addRequests("warm", since, warm.windows, len(warm.windows)); err != nil {
		return err
	}
	unpublish := window{from: time.Now()}
	if err := b.deletePods(ctx, "claim=first,app!=holder"); err != nil {
		return err
	}
	if err := wait(ctx, pause); err != nil {
		return err
	}
	unpublish.to = time.Now()
	if err := b.addRequests("unpublish", unpublish.from, []window{unpublish}, len(warm.windows)); err != nil {
		return err
	}
	return b.deleteApps(ctx)
}

// handled is what the node plugin says of the calls it has answered.
type handled struct {
	calls   int
	seconds float64
}

// published reads the node plugin's histogram of NodePublishVolume. With one
// call between two readings, the difference of the sums is its exact duration.
func (b *bench) published(ctx context.Context) (handled, error) {
	pod, err := b.podOf(ctx, nodeApp)
	if err != nil {
		return handled{}, err
	}
	url := "http://" + pod.Status.PodIP + ":9567/metrics"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return handled{}, fmt.Errorf("read %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return handled{}, fmt.Errorf("read %s: %w", url, err)
	}
	defer func() { _ = response.Body.Close() }()
	return parseHandled(bufio.NewScanner(response.Body), "NodePublishVolume")
}

func parseHandled(lines *bufio.Scanner, method string) (handled, error) {
	const name = "grpc_server_handling_seconds_"
	var (
		found       handled
		sums, tally bool
	)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, name) || !strings.Contains(line, `grpc_method="`+method+`"`) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			return handled{}, fmt.Errorf("read metric %s: %w", line, err)
		}
		switch {
		case strings.HasPrefix(line, name+"sum"):
			found.seconds, sums = value, true
		case strings.HasPrefix(line, name+"count"):
			found.calls, tally = int(value), true
		}
	}
	if err := lines.Err(); err != nil {
		return handled{}, fmt.Errorf("read metrics: %w", err)
	}
	if !sums || !tally {
		return handled{}, errors.New("no metric " + name + "sum of " + method)
	}
	return found, nil
}
