package main

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/juicefs-csi/driver/test/bench/workload"
)

// addStalls records, for each kind of disturbance, the longest operation of
// each window, and how many operations failed in all of them.
func (b *bench) addStalls(all []disturbance, records []workload.Record) error {
	var order []string
	longest, errorCount := make(map[string][]time.Duration), make(map[string]int)
	for _, d := range all {
		if !slices.Contains(order, d.name) {
			order = append(order, d.name)
		}
		stall, failed := inWindow(records, d.window)
		longest[d.name] = append(longest[d.name], stall)
		for _, operation := range slices.Sorted(maps.Keys(failed)) {
			b.say("%s at %s: %d times %s", d.name, d.from.Format(time.TimeOnly), failed[operation], operation)
			errorCount[d.name] += failed[operation]
		}
	}
	for _, name := range order {
		b.addDurations(name+".longest", longest[name], 50, 100)
		b.add(name+".errors", float64(errorCount[name]), "operations", len(longest[name]))
	}
	last := records[len(records)-1]
	if last.Kind != workload.Verified {
		return errors.New("the load did not verify its data")
	}
	b.add("load.acknowledged", float64(last.Acknowledged), "writes", 1)
	b.add("load.missing", float64(last.Missing), "writes", 1)
	return b.addRate(all[0].from, records)
}

// inWindow returns the longest operation of a window, at least
// workload.Threshold, and which operations failed how often.
func inWindow(records []workload.Record, w window) (time.Duration, map[string]int) {
	longest, failed := workload.Threshold, make(map[string]int)
	for _, record := range records {
		if record.Kind == workload.Second || record.Kind == workload.Verified || !record.Overlaps(w.from, w.to) {
			continue
		}
		longest = max(longest, time.Duration(record.Duration))
		if record.Kind == workload.Failed {
			failed[record.Operation+": "+record.Error]++
		}
	}
	return longest, failed
}

// addRate records how much the load did while it was alone.
func (b *bench) addRate(from time.Time, records []workload.Record) error {
	to := from.Add(time.Duration(b.counts.handOvers) * quietLength)
	operations, seconds := 0, 0
	for _, record := range records {
		if record.Kind == workload.Second && record.Start >= from.UnixNano() && record.Start < to.UnixNano() {
			operations += record.Operations
			seconds++
		}
	}
	if seconds == 0 {
		return errors.New("the load says nothing of the time when it was alone")
	}
	b.add("load.rate", float64(operations)/float64(seconds), "operations/s", seconds)
	return nil
}
