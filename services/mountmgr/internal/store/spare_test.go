package store

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestASpareIsEitherASpareOrAMounts(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	one, two := Spare{PodName: "one", PodUID: "u1", Shape: "x"}, Spare{PodName: "two", Shape: "x"}
	for _, each := range []Spare{one, two} {
		if err := s.PutSpare(each); err != nil {
			t.Fatal(err)
		}
	}
	taker := Record{ID: "m1", Client: one.Client()}
	if err := s.TakeSpare(taker, "one"); err != nil {
		t.Fatal(err)
	}
	if err := s.TakeSpare(Record{ID: "m2", Client: one.Client()}, "one"); !errdefs.IsNotFound(err) {
		t.Errorf("take it again: %v, want not found", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	spares, err := s.Spares()
	if diff := cmp.Diff([]Spare{two}, spares); diff != "" || err != nil {
		t.Errorf("spares: %v %s", err, diff)
	}
	mounts, err := s.Mounts()
	if diff := cmp.Diff([]Record{taker}, mounts); diff != "" || err != nil {
		t.Errorf("mounts: %v %s", err, diff)
	}
	unsettled, err := s.Unsettled()
	if diff := cmp.Diff(map[string]string{"one": "m1"}, unsettled); diff != "" || err != nil {
		t.Errorf("unsettled: %v %s", err, diff)
	}
	if err := s.Settle("one"); err != nil {
		t.Fatal(err)
	}
	if unsettled, err := s.Unsettled(); err != nil || len(unsettled) > 0 {
		t.Errorf("unsettled %v, %v after the end", unsettled, err)
	}
	if err := s.DeleteSpare("two"); err != nil {
		t.Fatal(err)
	}
	if spares, err := s.Spares(); err != nil || len(spares) > 0 {
		t.Errorf("spares %v, %v after the deletion", spares, err)
	}
}
