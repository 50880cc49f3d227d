package events

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

var options = Options{Node: "node-1", Namespace: "kube-system", Controller: "juicefs-csi-mountmgr"}

// recorded is an event recorder that keeps what it is told.
type recorded struct{ events []string }

func (r *recorded) Eventf(about, _ runtime.Object, kind, reason, _, note string, args ...any) {
	reference, ok := about.(*corev1.ObjectReference)
	if !ok {
		r.events = append(r.events, fmt.Sprintf("about a %T", about))
		return
	}
	r.events = append(r.events, fmt.Sprintf("%s %s/%s %s %s: %s", reference.Kind, reference.Namespace, reference.Name, kind, reason,
		fmt.Sprintf(note, args...)))
}

func mount(pods ...string) store.Record {
	record := store.Record{
		UniqueID: "pv-1", Reason: "RecoveryFailed", Message: "no answer of 100%s",
		Client: store.Client{PodName: "juicefs-1", PodUID: "u-1", Image: "mount:2", Version: "1.4.2"},
	}
	for index, name := range pods {
		record.References = append(record.References, store.Reference{
			TargetPath: fmt.Sprint(index), Pod: store.Pod{Namespace: "default", Name: name, UID: "uid-" + name},
		})
	}
	return record
}

func TestEventsSayWhatHappenedToWhom(t *testing.T) {
	const pause = 20*time.Millisecond + 400*time.Microsecond
	for reason, c := range map[string]struct {
		tell func(*Recorder, store.Record)
		kind string
		text string
		node bool
	}{
		MountPodReplaced: {
			func(r *Recorder, m store.Record) { r.Replaced(m, pause) }, "Normal",
			"mount pod juicefs-1 has taken over volume pv-1, nobody served it for 20ms", false,
		},
		Recovered: {
			func(r *Recorder, m store.Record) { r.Recovered(m, "killed", 0) }, "Warning",
			"volume pv-1 serves again, by mount pod juicefs-1: killed", false,
		},
		Upgrade: {
			func(r *Recorder, m store.Record) { r.HandedOver(m, pause) }, "Normal",
			"client of volume pv-1 upgraded to mount:2 (1.4.2), nobody served it for 20ms", false,
		},
		MountLost:       {(*Recorder).Lost, "Warning", "RecoveryFailed: no answer of 100%s", true},
		Remounted:       {(*Recorder).Remounted, "Normal", "volume pv-1 is mounted again", false},
		MountFailed:     {(*Recorder).Failed, "Warning", "volume pv-1 is not mounted: no answer of 100%s", false},
		RequestsRemoved: {func(r *Recorder, m store.Record) { r.RequestsRemoved(m, "2 CPU") }, "Warning", "no room for them: 2 CPU", false},
	} {
		var told recorded
		c.tell(newRecorder(&told, options), mount("app", "app", "", "other"))
		about := []string{"Pod kube-system/juicefs-1", "Pod default/app", "Pod default/other"}
		if c.node {
			about = append(about, "Node /node-1")
		}
		if len(told.events) != len(about) {
			t.Errorf("%s: %q, want events about %q", reason, told.events, about)
			continue
		}
		for index, event := range told.events {
			if !strings.HasPrefix(event, about[index]+" "+c.kind+" "+reason+": ") || !strings.Contains(event, c.text) {
				t.Errorf("%s: %q, want %q about %s", reason, event, c.text, about[index])
			}
		}
	}
}

func TestTheNodeIsToldOfASpareThatCannotBeMade(t *testing.T) {
	var told recorded
	newRecorder(&told, options).SpareFailed("mount:2", errors.New("quota"))
	want := "Node /node-1 Warning SpareFailed: no mount pod of image mount:2 waits for the next volume, which is mounted more slowly: quota"
	if len(told.events) != 1 || told.events[0] != want {
		t.Errorf("%q, want %q", told.events, want)
	}
}

func TestEventsAreBounded(t *testing.T) {
	var told recorded
	r := newRecorder(&told, options)
	pods := make([]string, 10*podLimit)
	for index := range pods {
		pods[index] = fmt.Sprintf("app-%d", index)
	}
	r.Remounted(mount(pods...))
	if len(told.events) != 1+podLimit {
		t.Errorf("%d events, want the mount pod and %d others", len(told.events), podLimit)
	}
	for range 100 {
		r.Remounted(mount(pods...))
	}
	if len(told.events) < burst || len(told.events) > 2*burst {
		t.Errorf("%d events at once, want about %d", len(told.events), burst)
	}
}

func TestANoteIsCut(t *testing.T) {
	for _, text := range []string{strings.Repeat("a", 5000), strings.Repeat("ä€", 1000), "b" + strings.Repeat("ä", 1000)} {
		if got := cut(text); len(got) > noteLimit || len(got) < noteLimit-8 || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
			t.Errorf("%d bytes, %q", len(got), got)
		}
	}
	if got := cut("short"); got != "short" {
		t.Error(got)
	}
}

func TestEventsReachTheAPI(t *testing.T) {
	client := fake.NewClientset()
	r := New(client, options)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(time.Minute)
	var found eventsv1.Event
	for found.Name == "" {
		r.Lost(mount("app")) // Those before Run has begun are dropped.
		select {
		case <-deadline:
			t.Fatal("no event in a minute")
		case <-ticker.C:
		}
		list, err := client.EventsV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range list.Items {
			if event.Regarding.Kind == "Pod" {
				found = event
			}
		}
	}
	if found.Regarding.UID != "uid-app" || found.Reason != MountLost || found.ReportingController != options.Controller {
		t.Errorf("event %+v", found)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.Lost(mount("app")) // It may be told something until the very end.
}
