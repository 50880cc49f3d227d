package manager

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/lifecycle"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

func settingsOf(options string, change func(*volume.Settings)) volume.Settings {
	settings := volume.Settings{
		FileSystem: "fs", UniqueID: "pv-1", Client: []string{"/bin/mount.juicefs", "redis://r/1", volume.MountPoint, "-o", options},
		Env:    []volume.EnvVar{{Name: "META_PASSWORD", Value: "one"}},
		Files:  []volume.File{{Path: "/etc/key", Content: []byte("one")}},
		Kernel: volume.KernelMount{Source: "JuiceFS:fs", MaxRead: 131072, DefaultPermissions: true},
		Pod: volume.PodShape{
			Image: "mount:1", Labels: map[string]string{"a": "1"},
			Resources: volume.Resources{Limits: map[string]string{"memory": "5Gi"}},
		},
	}
	if change != nil {
		change(&settings)
	}
	return settings
}

func TestPlan(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		change  func(*volume.Settings)
		want    []Change
	}{
		"nothing": {"cache-size=100,subdir=a", nil, nil},
		"image": {
			"cache-size=100,subdir=a", func(s *volume.Settings) { s.Pod.Image = "mount:2" },
			[]Change{{"image", "mount:1", "mount:2", false}},
		},
		"options": {"writeback,cache-size=200,subdir=a", nil, []Change{
			{"mountOptions[cache-size]", "100", "200", false}, {"mountOptions[writeback]", "", "true", false},
		}},
		"root of the mount": {"cache-size=100,subdir=b", nil, []Change{{"mountOptions[subdir]", "a", "b", true}}},
		"kernel": {
			"cache-size=100,subdir=a", func(s *volume.Settings) { s.Kernel.MaxRead = 1 << 20 },
			[]Change{{"kernel mount max_read", "131072", "1048576", true}},
		},
		"read-only": {"cache-size=100,subdir=a", func(s *volume.Settings) { s.ReadOnly = true }, []Change{{"read-only", "false", "true", true}}},
		"pod": {"cache-size=100,subdir=a", func(s *volume.Settings) {
			s.Pod.Labels, s.Pod.Resources.Limits = map[string]string{"b": "2"}, map[string]string{"memory": "6Gi"}
		}, []Change{
			{"labels[a]", "1", "", false}, {"labels[b]", "", "2", false}, {"resources.limits[memory]", "5Gi", "6Gi", false},
		}},
		"secrets": {"cache-size=100,subdir=a", func(s *volume.Settings) {
			s.Env, s.Files = []volume.EnvVar{{Name: "META_PASSWORD", Value: "two"}}, nil
			s.Client = append([]string(nil), s.Client...)
			s.Client[1] = "redis://two/1"
		}, []Change{
			{"configs[/etc/key]", hidden, "", false}, {"envs[META_PASSWORD]", hidden, hidden, false}, {"metaurl", hidden, hidden, true},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			plan := newPlan(settingsOf("cache-size=100,subdir=a", nil), settingsOf(c.options, c.change))
			if diff := cmp.Diff(c.want, plan.Changes); diff != "" {
				t.Error(diff)
			}
			remount := false
			for _, change := range c.want {
				remount = remount || change.NeedsRemount
				if change.NeedsRemount && !strings.Contains(plan.Message, change.Field) {
					t.Errorf("message %q does not name %s", plan.Message, change.Field)
				}
			}
			if plan.CanHandOver == remount || (plan.Message != "") != remount {
				t.Errorf("can hand over: %v, message %q", plan.CanHandOver, plan.Message)
			}
		})
	}
}

// TestPlanShowsTheWholeShape checks that no field of the shape is forgotten.
func TestPlanShowsTheWholeShape(t *testing.T) {
	shapes := reflect.TypeFor[volume.PodShape]()
	for i := range shapes.NumField() {
		field := shapes.Field(i)
		changed := settingsOf("", func(s *volume.Settings) {
			s.Pod = volume.PodShape{}
			reflect.ValueOf(&s.Pod).Elem().Field(i).Set(filled(field.Type))
		})
		if plan := newPlan(settingsOf("", func(s *volume.Settings) { s.Pod = volume.PodShape{} }), changed); len(plan.Changes) == 0 {
			t.Errorf("a change of %s is not shown", field.Name)
		}
	}
}

// filled is a value of the type that is not empty.
func filled(kind reflect.Type) reflect.Value {
	filledValue := reflect.New(kind).Elem()
	switch kind.Kind() {
	case reflect.String:
		filledValue.SetString("other")
	case reflect.Bool:
		filledValue.SetBool(true)
	case reflect.Int32, reflect.Int64:
		filledValue.SetInt(7)
	case reflect.Pointer:
		filledValue.Set(reflect.New(kind.Elem()))
		filledValue.Elem().Set(filled(kind.Elem()))
	case reflect.Slice:
		filledValue.Set(reflect.Append(filledValue, filled(kind.Elem())))
	case reflect.Map:
		filledValue.Set(reflect.MakeMap(kind))
		filledValue.SetMapIndex(filled(kind.Key()), filled(kind.Elem()))
	case reflect.Struct:
		for i := range kind.NumField() {
			if kind.Field(i).IsExported() && depth(kind.Field(i).Type) {
				filledValue.Field(i).Set(filled(kind.Field(i).Type))
			}
		}
	default:
	}
	return filledValue
}

// depth keeps filled from the parts of parts, of which some hold themselves.
func depth(kind reflect.Type) bool {
	return kind.Kind() == reflect.String || kind.Kind() == reflect.Bool || kind.Kind() == reflect.Int32 ||
		kind == reflect.TypeFor[map[string]string]() || kind == reflect.TypeFor[*corev1.EnvVarSource]()
}

func TestTheStateOfAMountSettlesItsUpgrade(t *testing.T) {
	for name, c := range map[string]struct {
		phase store.UpgradePhase
		to    lifecycle.State
		want  store.UpgradePhase
	}{
		"begins":               {store.UpgradePlanned, lifecycle.HandingOver, store.UpgradePlanned},
		"adopted":              {store.UpgradeAdopted, lifecycle.Serving, store.UpgradeCommitted},
		"died when it adopted": {store.UpgradeAdopted, lifecycle.Recovering, store.UpgradeCommitted},
		"died before":          {store.UpgradePlanned, lifecycle.Recovering, store.UpgradeRolledBack},
		"died in the middle":   {store.UpgradeHandingOver, lifecycle.Recovering, store.UpgradeRolledBack},
		"unused":               {store.UpgradePlanned, lifecycle.Draining, store.UpgradeRolledBack},
		"over":                 {store.UpgradeCommitted, lifecycle.Recovering, store.UpgradeCommitted},
	} {
		record := store.Record{Upgrade: &store.Upgrade{Phase: c.phase}}
		settle(&record, c.to, "")
		if got := record.Upgrade; got.Phase != c.want || (got.Message != "") != (c.want == store.UpgradeRolledBack) {
			t.Errorf("%s: %s, %q, want %s", name, got.Phase, got.Message, c.want)
		}
	}
	settle(&store.Record{}, lifecycle.Recovering, "") // There need not be one.
}

func TestPauses(t *testing.T) {
	var p pauses
	if got := p.longest(); got != 0 {
		t.Errorf("longest of none is %v", got)
	}
	p.add(time.Hour)
	for range rememberedPauses {
		p.add(time.Second)
	}
	if got := p.longest(); got != time.Second {
		t.Errorf("longest %v, want that of the last ones", got)
	}
}
