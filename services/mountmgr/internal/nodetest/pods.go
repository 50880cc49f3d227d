package nodetest

import (
	"context"
	"errors"
	"maps"
	"sync"
)

// PodList is what a kubelet says of the application pods of the node.
type PodList struct {
	mu     sync.Mutex
	uids   map[string]bool
	broken bool
	looks  int
}

// NewPodList returns a list with these pods.
func NewPodList(uids ...string) *PodList {
	l := &PodList{}
	l.Set(uids...)
	return l
}

// Set replaces the pods.
func (l *PodList) Set(uids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uids = make(map[string]bool)
	for _, uid := range uids {
		l.uids[uid] = true
	}
}

// Break makes the kubelet not answer, or answer again.
func (l *PodList) Break(broken bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = broken
}

// Looks is how often somebody has asked.
func (l *PodList) Looks() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.looks
}

// Running returns the pods.
func (l *PodList) Running(context.Context) (map[string]bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.looks++
	if l.broken {
		return nil, errors.New("kubelet does not answer")
	}
	return maps.Clone(l.uids), nil
}
