package render

// datePrefix tells whether s begins with a valid date YYYY-MM-DD.
func datePrefix(s []byte) bool {
	if len(s) < 10 || s[4] != '-' || s[7] != '-' {
		return false
	}
	y, ok1 := fixedDigits(s[0:4])
	m, ok2 := fixedDigits(s[5:7])
	d, ok3 := fixedDigits(s[8:10])
	return ok1 && ok2 && ok3 && 1 <= m && m <= 12 && 1 <= d && d <= daysIn(y, m)
}

func fixedDigits(s []byte) (n int, ok bool) {
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts the days from 1970-01-01 to a date of the proleptic
// Gregorian calendar, year 0 to 9999.
func daysSinceEpoch(year, month, day int) int64 {
	// Years that begin in March have their leap day last; in them, month m
	// begins at day (153m+2)/5.
	if month <= 2 {
		year--
		month += 12
	}
	y := int64(year) + 400 // one whole cycle of 146097 days keeps it positive
	return y*365 + y/4 - y/100 + y/400 + int64((153*(month-3)+2)/5+day-1) - 719468 - 146097
}

// parseTimestamp converts a time of RFC 3339 (section 5.6: "T" and "Z" in either
// case, any number of fraction digits, any offset) to ms since the Unix epoch,
// rounded down. A leap second is legal at the end of a month in UTC only and
// counts as the second after it, as in Unix time.
func parseTimestamp(s []byte) (ms int64, ok bool) {
	if len(s) < len("YYYY-MM-DDTHH:MM:SSZ") || !datePrefix(s) || (s[10] != 'T' && s[10] != 't') || s[13] != ':' || s[16] != ':' {
		return 0, false
	}
	year, _ := fixedDigits(s[0:4])
	month, _ := fixedDigits(s[5:7])
	day, _ := fixedDigits(s[8:10])
	hour, ok1 := fixedDigits(s[11:13])
	minute, ok2 := fixedDigits(s[14:16])
	second, ok3 := fixedDigits(s[17:19])
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 60 {
		return 0, false
	}
	rest, fraction := s[19:], int64(0)
	if rest[0] == '.' {
		n := 1
		for weight := int64(100); n < len(rest) && '0' <= rest[n] && rest[n] <= '9'; n++ {
			fraction += int64(rest[n]-'0') * weight
			weight /= 10
		}
		if n == 1 {
			return 0, false
		}
		rest = rest[n:]
	}
	offset, ok := parseOffset(rest)
	if !ok {
		return 0, false
	}
	minutes := (daysSinceEpoch(year, month, day)*24+int64(hour))*60 + int64(minute) - offset
	if second == 60 && !endsMonth(minutes, year, month) {
		return 0, false
	}
	return (minutes*60+int64(second))*1000 + fraction, true
}

// parseOffset reads "Z" or ±HH:MM, in minutes east of UTC.
func parseOffset(s []byte) (minutes int64, ok bool) {
	if len(s) == 1 {
		return 0, s[0] == 'Z' || s[0] == 'z'
	}
	if len(s) != 6 || (s[0] != '+' && s[0] != '-') || s[3] != ':' {
		return 0, false
	}
	h, ok1 := fixedDigits(s[1:3])
	m, ok2 := fixedDigits(s[4:6])
	if !ok1 || !ok2 || h > 23 || m > 59 {
		return 0, false
	}
	minutes = int64(h*60 + m)
	if s[0] == '-' {
		minutes = -minutes
	}
	return minutes, true
}

// endsMonth tells whether the minute, counted from the epoch, is the last of a
// month in UTC. year and month are those of the local time, which is less than a
// day away.
func endsMonth(minute int64, year, month int) bool {
	next := minute + 1
	if next == daysSinceEpoch(year, month, 1)*24*60 {
		return true
	}
	if month++; month > 12 {
		year, month = year+1, 1
	}
	return next == daysSinceEpoch(year, month, 1)*24*60
}
