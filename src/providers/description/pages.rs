//! The pages of a provider's console where keys are created and deleted.

use super::{Provider, Region};

/// A page of a provider's console.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page<'a> {
    pub(crate) url: &'a str,
    /// `China`, `elsewhere`; `None` where there is one page for all.
    pub(crate) place: Option<&'a str>,
}

impl Provider {
    /// Where keys of `region` are made. Where the region is not known, each page with the people it is for.
    pub(crate) fn key_pages(&self, region: Option<&str>) -> Vec<Page<'_>> {
        self.pages(self.key.as_ref().and_then(|key| key.page.as_deref()), region)
    }

    /// Where a key of `region` is deleted. A page of the key itself is the same in all regions.
    pub(crate) fn delete_pages(&self, region: Option<&str>) -> Vec<Page<'_>> {
        let delete = self.key.as_ref().and_then(|key| key.delete.as_deref());
        match delete {
            Some(url) if url.contains("{sha256}") => vec![Page { url, place: None }],
            url => self.pages(url, region),
        }
    }

    fn pages<'a>(&'a self, own: Option<&'a str>, region: Option<&str>) -> Vec<Page<'a>> {
        if let Some(region) = region.and_then(|name| self.regions.get(name)) {
            return region.key_page.as_deref().or(own).map(|url| Page { url, place: None }).into_iter().collect();
        }
        let apart =
            |region: &'a Region| Some(Page { url: region.key_page.as_deref()?, place: region.country.as_deref() });
        let mut pages: Vec<Page> =
            self.regions.values().filter_map(apart).filter(|page| page.place.is_some()).collect();
        let place = (!pages.is_empty()).then_some("elsewhere");
        pages.extend(own.map(|url| Page { url, place }));
        pages
    }
}

impl std::fmt::Display for Page<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some(place) => write!(formatter, "{} ({place})", self.url),
            None => formatter.write_str(self.url),
        }
    }
}

/// `A`, or `A (China) or B (elsewhere)`; `None` where no page is known.
pub(crate) fn in_words(pages: &[Page]) -> Option<String> {
    (!pages.is_empty()).then(|| pages.iter().map(Page::to_string).collect::<Vec<_>>().join(" or "))
}
