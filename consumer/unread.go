package consumer

import (
	"maps"
	"slices"
)

// tellUnread shows the lag of partitions that no lane has, because the input topics have
// different numbers of them: somebody has added partitions to one and not, or not yet, to
// the others. The owner of lane 0 tells it. And lanes learn the number of the profiles'
// partitions, by which the profile of an event is, or is not, in its partition.
func (c *Consumer) tellUnread(partitions map[string]int32) {
	least, most := slices.Min(slices.Collect(maps.Values(partitions))), slices.Max(slices.Collect(maps.Values(partitions)))
	unread := make(map[lagKey]bool)
	if c.lanes[0] != nil && least < most {
		for topic, all := range partitions {
			for n := least; n < all; n++ {
				unread[lagKey{topic, n}] = true
			}
		}
	}
	if len(unread) > 0 && len(c.unread) == 0 {
		c.log.Error("nobody reads the partitions that not all input topics have: add them to the others, too", "partitions", partitions)
	}
	for k := range unread {
		var next int64
		if ids := c.deps.Catalog.Adopted(k.topic); len(ids) > 0 {
			pos, _ := c.deps.Catalog.Position(ids[len(ids)-1], k.partition)
			next = pos.Next
		}
		c.lag.setPosition(k.topic, k.partition, next, next, 0, 0)
	}
	for k := range c.unread {
		if !unread[k] && c.lanes[k.partition] == nil {
			c.lag.forget(k.partition, []string{k.topic})
		}
	}
	c.unread = unread
	for _, l := range c.lanes {
		if l.prof != nil {
			l.routeBy(partitions[l.prof.topic])
		}
	}
}

// routeBy counts events as misrouted by so many partitions of the profiles.
func (l *lane) routeBy(partitions int32) {
	if l.routed == partitions {
		return
	}
	l.routed = partitions
	route := router(partitions)
	l.misrouted = func(id []byte) bool { p := route(id); return p >= 0 && p != l.n }
}
